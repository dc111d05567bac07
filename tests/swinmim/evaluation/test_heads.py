"""Heads in one pass: against heads trained alone, and each against its formula written as a loop."""

import math

import pytest
import torch
from torch import nn

from swinmim.evaluation.attentive import AttentiveHeads
from swinmim.evaluation.heads import HeadScore, best_of, rate_factor, score_heads, train_heads
from swinmim.evaluation.linear import LinearHeads

RATES = (1e-3, 1e-2, 1e-1)


def made(kind, count):
    return LinearHeads(count, 8, 3) if kind == "linear" else AttentiveHeads(count, 8, 3, queries=4)


@pytest.fixture
def samples():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (50,), generator=generator)
    return torch.randn(50, 5, 8, generator=generator) + labels[:, None, None], labels


def features_of(kind, tokens):
    return tokens if kind == "attentive" else tokens.mean(1)


def trained(kind, samples, rates):
    tokens, labels = samples
    heads = made(kind, len(rates))
    train_heads(
        heads, features_of(kind, tokens), labels, rates, samples=torch.arange(40), epochs=3, batch_size=16, seed=7
    )
    return heads


@pytest.mark.parametrize("kind", ["linear", "attentive"])
def test_heads_in_one_pass_are_those_trained_one_by_one(kind, samples):
    together = trained(kind, samples, RATES)
    features = features_of(kind, samples[0])
    for head, rate in enumerate(RATES):
        alone = trained(kind, samples, (rate,))
        for a, b in zip(together.parameters_of(head), alone.parameters_of(0), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(together(features)[head], alone(features)[0], rtol=1e-4, atol=1e-4)


def test_heads_begin_alike_and_differ_by_their_rates(samples):
    first, last = (made("linear", 2).parameters_of(head)[0] for head in range(2))
    assert torch.equal(first, last)
    heads = trained("linear", samples, RATES)
    assert not torch.equal(heads.parameters_of(0)[0], heads.parameters_of(2)[0])


def test_the_linear_head_is_batch_norm_and_a_linear_layer(samples):
    vectors = samples[0].mean(1)
    heads = trained("linear", samples, RATES)
    weight, bias = heads.parameters_of(1)
    normed = (vectors - heads.norm.running_mean) / (heads.norm.running_var + heads.norm.eps).sqrt()
    torch.testing.assert_close(heads(vectors)[1], normed @ weight.T + bias)
    assert [name for name, _ in heads.norm.named_parameters()] == []


def test_the_attentive_head_is_what_the_paper_says(samples):
    """Query by query, image by image: keys are the tokens, each query sums its own slice of their values."""
    tokens = samples[0][:6]
    heads = trained("attentive", samples, RATES)
    query, value, weight, bias = (parameter.detach() for parameter in heads.parameters_of(1))
    values = tokens @ value.flatten(0, 1).T  # of all channels at once
    pooled = torch.empty(6, 8)
    for image in range(6):
        for q in range(4):
            attention = torch.tensor([float(query[q] @ token) / math.sqrt(8) for token in tokens[image]]).softmax(0)
            for channel in (2 * q, 2 * q + 1):
                pooled[image, channel] = sum(a * v for a, v in zip(attention, values[image, :, channel], strict=True))
    torch.testing.assert_close(heads.pool(tokens)[1], pooled, rtol=1e-4, atol=1e-5)
    mean, var = heads.norm.running_mean.view(3, 8)[1], heads.norm.running_var.view(3, 8)[1]
    expected = (pooled - mean) / (var + heads.norm.eps).sqrt() @ weight.T + bias
    torch.testing.assert_close(heads(tokens)[1], expected, rtol=1e-4, atol=1e-4)


def test_queries_that_do_not_divide_the_channels_are_refused():
    with pytest.raises(ValueError, match="3 queries do not divide 8 channels"):
        AttentiveHeads(1, 8, 3, queries=3)


def test_the_held_out_samples_train_nothing(samples):
    tokens, labels = samples
    heads = trained("linear", samples, RATES)
    changed = trained("linear", (torch.cat([tokens[:40], 99 * tokens[40:]]), labels), RATES)
    for a, b in zip(heads.state_dict().values(), changed.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_scores_are_those_of_a_count(samples):
    tokens, labels = samples
    heads = trained("attentive", samples, RATES)
    scores = score_heads(heads, tokens, labels, batch_size=16)
    logits = heads(tokens).detach()
    for head, score in enumerate(scores):
        assert score.top1 == pytest.approx(float((logits[head].argmax(1) == labels).float().mean()))
        assert score.loss == pytest.approx(float(nn.functional.cross_entropy(logits[head], labels)), rel=1e-4)
    assert scores[1].top1 > 0.5  # three classes, shifted by their number; a third is chance, 9 steps give two thirds


def test_the_best_head_has_most_right_answers_and_then_the_lowest_loss():
    scores = [HeadScore(0.5, 0.1), HeadScore(0.8, math.nan), HeadScore(0.8, 0.9), HeadScore(0.8, 0.7)]
    assert best_of(scores) == 3
    assert best_of(scores[:2]) == 1


def test_rates_rise_for_a_tenth_and_end_at_nothing():
    factors = [rate_factor(step, 100) for step in range(101)]
    assert factors[:3] == [0.1, 0.2, pytest.approx(0.3)]
    assert max(factors) == factors[9] == factors[10] == 1
    assert factors[55] == pytest.approx(0.5)
    assert factors[100] == pytest.approx(0)
    assert rate_factor(0, 1) == 1
