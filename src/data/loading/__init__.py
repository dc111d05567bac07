"""From a set of samples to batches, in an order that can be sought. The only room of `data` with torch.

module        the data modules of Lightning                            position      their state, and seeking it
sampler       which samples this process loads next                    dataset       places in the order -> a batch
loader        the DataLoader; names what a dead worker was reading     stream        tars without an index
ready         what the loaders of both share
views         crops and colours, image by image, on the CPU            dense         those of tasks with masks
normalise     flip and normalise, on the device
batch         the dict that leaves the loader                          ahead         fetches what is needed next
damage        counts what could not be used, over ranks                stats         mean and deviation
"""
