import datetime
import hashlib
import ipaddress
import json
import os
import ssl
import subprocess
import sys

import pytest
from servers import file_server, google_cloud, hugging_face

from data.shards.cache import open_remote
from data.shards.local import ShardSet
from data.shards.remote import Remote, check_url
from swinmim.errors import DataError

pytestmark = [
    pytest.mark.usefixtures("own_connections"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),  # sockets of the servers
    pytest.mark.filterwarnings("ignore::DeprecationWarning:botocore.*"),
]


def reach(server, cache, path=""):
    return open_remote(server.url + path, cache, 10**9, True, pause=0.001)


def test_a_set_on_a_server_is_read_like_a_local_one(server, shards, tmp_path):
    remote = reach(server, tmp_path)
    assert [remote.read(n) for n in range(40)] == [shards.read(n) for n in range(40)]
    assert remote.fingerprint == shards.fingerprint
    tars = [name for name in server.requests if name.endswith(".tar")]
    assert sorted(tars) == [shard.name for shard in shards.shards]  # each once
    again = reach(server, tmp_path)
    again.read(0)
    assert len([name for name in server.requests if name.endswith((".tar", ".npy"))]) == len(tars) * 2


CUTS = ["cut", "cut without length", "cut between chunks"]


def test_a_shard_is_never_partial(server, shards, tmp_path):
    server.faults = {
        "train-000000.tar": [*CUTS, 404, "wrong"],
        "train-000001.tar": [503, "page", "empty", "slow"],
        "manifest.json": [500, *CUTS, "page"],
        "train-000001.index.npy": [*CUTS, 404],
    }
    remote = reach(server, tmp_path)
    assert [remote.read(n) for n in (0, 7)] == [shards.read(n) for n in (0, 7)]
    assert server.requests.count("train-000000.tar") == 6
    assert server.requests.count("train-000001.tar") == 4
    assert not list(tmp_path.rglob("*partial*"))


def test_a_silent_server_counts_as_gone(server, shards, tmp_path, monkeypatch):
    monkeypatch.setattr("data.shards.remote._SILENT_SECONDS", 0.1)
    server.faults = {"train-000000.tar": ["slow", "stuck"]}
    assert reach(server, tmp_path).read(0) == shards.read(0)
    assert server.requests.count("train-000000.tar") == 3


@pytest.mark.parametrize("fault", ["cut", "wrong", 404])
def test_a_server_that_stays_broken_is_named_with_what_it_did(server, tmp_path, fault):
    server.faults = {"train-000002.tar": [fault] * 100}
    remote = reach(server, tmp_path)
    remote.read(0)
    with pytest.raises(DataError, match=r"(?s)train-000002.tar cannot be read. 6 tries met"):
        remote.read(14)
    assert len(list((tmp_path / "shards").glob("*.tar"))) == 1


def test_a_manifest_that_is_none_is_named_by_its_url_and_not_kept(server, tmp_path):
    server.faults = {"manifest.json": ["page"] * 6}
    with pytest.raises(DataError, match=rf"{server.url}/manifest.json cannot be read.*(?s:.*)begins with b'<html>"):
        reach(server, tmp_path)
    assert not list(tmp_path.rglob("manifest.json*"))
    reach(server, tmp_path)


def test_a_manifest_of_something_else_is_named_by_its_url(tmp_path):
    (tmp_path / "manifest.json").write_text("{}")
    with file_server(tmp_path) as server, pytest.raises(DataError, match=rf"{server.url}/manifest.json cannot be used"):
        reach(server, tmp_path / "cache")


def test_answers_without_end_do_not_fill_the_disk(server, tmp_path, monkeypatch):
    monkeypatch.setattr("data.shards.cache.LARGEST", 100)
    with pytest.raises(DataError, match="more than 100 bytes came"):
        reach(server, tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr("data.shards.cache.index_size", lambda samples, version: 100)
    with pytest.raises(DataError, match=r"index.npy cannot be read(?s:.*)more than \d+ bytes came"):
        reach(server, tmp_path)


@pytest.mark.parametrize(("fault", "name"), [(401, "HTTP 401"), (403, "HTTP 403"), (404, "FileNotFoundError")])
def test_what_trying_again_cannot_mend_is_said_at_once(server, tmp_path, fault, name):
    server.faults = {"manifest.json": [fault] * 10}
    with pytest.raises(DataError, match=rf"cannot be read. The first try met:\n  {name}: (?s:.*)Check the address"):
        reach(server, tmp_path)
    assert len(server.requests) == 1


def test_a_cache_that_cannot_be_written_is_named_and_no_server_is_blamed(server, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"The cache .*file.* cannot be used \(Not a directory\)"):
        reach(server, tmp_path / "file")
    remote = reach(server, tmp_path)
    server.requests.clear()
    os.symlink("/dev/full", tmp_path / "full")
    with pytest.raises(DataError, match=r"cannot be used \(No space left on device\)"):
        remote.remote.fetch("train-000000.tar", tmp_path / "full", remote.shards[0].bytes, remote.shards[0].sha256)
    assert len(server.requests) == 1


@pytest.fixture
def tls(tmp_path, monkeypatch):
    """A context for a server whose certificate the client trusts."""
    pytest.importorskip("cryptography")
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    own = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder(name, name, own.public_key(), 1, now, now + datetime.timedelta(days=1))
        .add_extension(address, critical=False)
        .sign(own, hashes.SHA256())
    )
    pem, encoding = tmp_path / "server.pem", serialization.Encoding.PEM
    plain = own.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    pem.write_bytes(plain + certificate.public_bytes(encoding))
    # aiohttp reads SSL_CERT_FILE when it is imported
    monkeypatch.setattr("aiohttp.connector._SSL_CONTEXT_VERIFIED", ssl.create_default_context(cafile=str(pem)))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context


def test_https_does_not_end_at_http(server, shard_dir, shards, tmp_path, tls, monkeypatch):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    with file_server(shard_dir, tls) as secure, file_server(shard_dir, tls) as other:
        secure.faults = {"*": [other.url] * 3}
        remote = open_remote(secure.url, tmp_path / "a", 10**9, pause=0.001)  # https to https is fine
        assert remote.read(0) == shards.read(0)
        assert secure.passwords[0].startswith("Basic ")
        for target in (server.url, server.url.replace("http", "HTTP")):
            secure.faults = {"*": [target] * 100}
            with pytest.raises(DataError, match=r"sends on to .*, which is not https"):
                open_remote(secure.url, tmp_path / "b", 10**9, pause=0.001)
        assert server.requests == []
        assert open_remote(secure.url, tmp_path / "b", 10**9, True, pause=0.001).read(0) == shards.read(0)


@pytest.mark.parametrize(
    "url", ["pipe:touch canary", "file:///x", "ftp://x/y", "ssh://x", "http://x/y", "github://x:y@z/", "Pipe://x"]
)
def test_other_schemes_are_refused(url):
    with pytest.raises(DataError, match="are read over https, s3, gs, hf"):
        check_url(url)
    with pytest.raises(DataError, match="are read over"):
        Remote(url)


@pytest.mark.parametrize(
    ("url", "rule"),
    [
        ("https::file:///etc", "is named as https://HOST"),
        ("https://h/x::file:///etc", "is named as https://HOST"),
        ("https:/h/x", "is named as https://HOST"),
        ("https:///x", "is named as https://HOST"),
        ("s3://", "is named as s3://"),
        ("s3:bucket/x", "is named as s3://"),
        ("https://h/set?version=1", r"without \? and #"),
        ("https://h/set#x", r"without \? and #"),
    ],
)
def test_urls_that_are_no_folder_are_refused_with_the_rule(url, rule):
    with pytest.raises(DataError, match=rule):
        Remote(url)


def test_ways_to_write_a_url(server, shards, tmp_path):
    assert Remote("HTTPS://h/Set/").url == "https://h/Set"
    for path in ("/", "//", "/manifest.json"):
        assert reach(server, tmp_path, path).path == reach(server, tmp_path).path


@pytest.mark.parametrize(
    "name", ["a#b.tar", "a?b.tar", "a%41b.tar", "100%.tar", "a b.tar", "a::b.tar", "\u00fc+&[1].tar"]
)
def test_any_shard_name_can_be_asked_for(shard_dir, shards, tmp_path, name):
    folder = tmp_path / "my set"
    folder.mkdir()
    for file in shard_dir.iterdir():
        (folder / file.name.replace("train-000000.", name.removesuffix("tar"))).write_bytes(file.read_bytes())
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["shards"][0]["name"] = name
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with file_server(tmp_path) as server:
        for written in ("/my set", "/my%20set"):
            remote = reach(server, tmp_path / f"cache{written}", written)
            assert remote.read(0) == shards.read(0)._replace(shard=name)


def files_of(shard_dir):
    return {f"sets/a/{file.name}": file.read_bytes() for file in shard_dir.iterdir()}


def hf_options(url):
    return {"endpoint": url, "token": False, "skip_instance_cache": True}


def gs_options(url):
    return {"endpoint_url": url, "token": "anon", "skip_instance_cache": True}


@pytest.fixture(params=["hf", "gs"])
def store(request, shard_dir):
    """The server, the URL of the set on it, and the options of the real client."""
    if request.param == "hf":
        pytest.importorskip("huggingface_hub")
        with hugging_face(files_of(shard_dir)) as server:
            yield server, "hf://datasets/user/set/sets/a", hf_options(server.url)
    else:
        pytest.importorskip("gcsfs")
        with google_cloud(files_of(shard_dir)) as server:
            yield server, "gs://bucket/sets/a", gs_options(server.url)


@pytest.mark.slow
def test_the_real_clients_of_hf_and_gs(store, shards, tmp_path):
    _, url, options = store
    remote = open_remote(url, tmp_path, 10**9, options=options, pause=0.01)
    assert [remote.read(n) for n in range(40)] == [shards.read(n) for n in range(40)]
    assert remote.fingerprint == shards.fingerprint
    with pytest.raises(DataError, match="cannot be read"):
        open_remote(url.replace("/a", "/none"), tmp_path, 10**9, options=options, pause=0.001)


def test_a_shard_takes_few_requests(store, tmp_path):
    server, url, options = store
    data = server.files["sets/a/large.tar"] = os.urandom(20 << 20)
    sha256 = hashlib.sha256(data).hexdigest()
    Remote(url, options=options).fetch("large.tar", tmp_path / "large.tar", len(data), sha256)
    assert (tmp_path / "large.tar").read_bytes() == data
    assert len([line for line in server.requests if "resolve" in line or "media" in line]) <= 8


def test_a_refused_connection_is_called_so_and_tried_again(tmp_path, caplog):
    with pytest.raises(DataError, match=r"cannot be read. 6 tries met:\n  connection refused, ClientConnectorError"):
        open_remote("http://127.0.0.1:9/set", tmp_path, 10**9, allow_insecure=True, pause=0.001)
    assert caplog.text.count("connection refused") == 6


def test_a_hub_that_does_not_answer_is_named(tmp_path):
    pytest.importorskip("huggingface_hub")
    options = hf_options("http://127.0.0.1:9")
    with pytest.raises(DataError, match=r"(?s)cannot be read. 6 tries met:.*ConnectError"):
        open_remote("hf://datasets/user/set/sets/a", tmp_path, 10**9, options=options, pause=0.001)


@pytest.mark.parametrize(
    ("scheme", "module", "package"),
    [
        ("gs", "gcsfs", "'swinmim.gs.'"),
        ("hf", "huggingface_hub", "huggingface_hub"),
        ("s3", "s3fs", "'swinmim.remote.'"),
    ],
)
def test_a_missing_package_is_named(monkeypatch, tmp_path, scheme, module, package):
    from fsspec.registry import _registry

    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(_registry, scheme, raising=False)
    with pytest.raises(DataError, match=f"Reading {scheme}:// needs one more package: pip install {package}"):
        open_remote(f"{scheme}://bucket/set", tmp_path, 10**9)


@pytest.fixture
def s3(shard_dir, monkeypatch):
    """A client of an S3 server that `s3fs` finds through the environment; the set lies in bucket/sets/a."""
    s3fs = pytest.importorskip("s3fs")
    moto = pytest.importorskip("moto.server")
    import boto3

    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    for name, value in {
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    client = boto3.client("s3")
    client.create_bucket(Bucket="bucket")
    for file in shard_dir.iterdir():
        client.upload_file(str(file), "bucket", f"sets/a/{file.name}")
    yield
    server.stop()


def test_s3(s3, shards, tmp_path):
    remote = open_remote("s3://bucket/sets/a", tmp_path, 10**9, pause=0.01)
    assert isinstance(remote, ShardSet)
    assert [remote.read(n) for n in range(40)] == [shards.read(n) for n in range(40)]
    for url in ("s3://bucket/none", "s3://none/a"):
        with pytest.raises(DataError, match=r"The first try met:\n  FileNotFoundError: (?s:.*)Check the address"):
            open_remote(url, tmp_path, 10**9)


@pytest.mark.slow
def test_s3_with_wrong_keys_or_none(s3, tmp_path, monkeypatch):
    import s3fs

    monkeypatch.setattr("moto.settings.INITIAL_NO_AUTH_ACTION_COUNT", 0)  # the server is in this process
    with pytest.raises(
        DataError, match=r"The first try met:\n  PermissionError.*(?s:.*)keys where the cloud's own tools"
    ):
        open_remote("s3://bucket/sets/a", tmp_path, 10**9)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(DataError, match=r"The first try met:\n  NoCredentialsError"):
        open_remote("s3://bucket/sets/a", tmp_path, 10**9)


@pytest.mark.slow
def test_the_hub_that_the_environment_names(shard_dir, tmp_path):
    pytest.importorskip("huggingface_hub")
    code = (
        "import sys; from data.shards.cache import open_remote\n"
        "print(len(open_remote('hf://datasets/user/set/sets/a', sys.argv[1], 10**9).read(0).data))"
    )
    with hugging_face(files_of(shard_dir)) as server:
        ran = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)],
            env=os.environ | {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_TELEMETRY": "1"},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert int(ran.stdout) == len(ShardSet.open(shard_dir).read(0).data), ran.stderr
