"""Copy a batch to the device, on a stream of its own while the step before still runs."""

import torch

from deit_transfer.batch import Batch


def copy_to_device(
    batch: Batch, device: torch.device, stream: "torch.cuda.Stream | None" = None
) -> Batch:
    """Return the batch with images and labels on the device.

    Args:
        batch: From the loader; only page-locked memory is copied while other work runs.
        device: Where the model is.
        stream: A CUDA stream to copy on; the current stream waits for it. None copies on the
            current one, behind all that it has to do.
    """
    if stream is None:
        return batch._replace(
            images=batch.images.to(device, non_blocking=True),
            labels=batch.labels.to(device, non_blocking=True),
        )
    current = torch.cuda.current_stream(device)
    with torch.cuda.stream(stream):
        images = batch.images.to(device, non_blocking=True)
        labels = batch.labels.to(device, non_blocking=True)
    current.wait_stream(stream)
    for tensor in (images, labels):
        tensor.record_stream(current)  # or its memory could be reused while current still reads
    return batch._replace(images=images, labels=labels)
