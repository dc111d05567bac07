"""From open sets to batches; the only room of `data` with torch.

module: the Lightning data modules, indexed or streamed; position: where a run is in its order, and its resume
sampler, ahead: which samples come next, fetched before they are due
loader, dataset: the DataLoader, and what runs in its processes; batch: what comes out, and the settings
stream: tars without an index; damage: how much of it a run bears
views: crops, colour and flips of images and targets; normalise: what follows on the device; stats: mean and deviation
"""
