"""How a network is named on the command line: MODEL, or MODEL=WEIGHTS."""

from deit_transfer.errors import UsageError

PUBLISHED = "imagenet"


def split_model_weights(text: str) -> tuple[str, str]:
    """Split `MODEL` or `MODEL=START` into a network's name and what it starts from.

    Args:
        text: What is no folder; without START it is the published weights.

    Raises:
        UsageError: The name is a path: a run was meant that is not there.
    """
    name, _, start = text.partition("=")
    if "/" in name:
        raise UsageError(
            f"there is no run in {text}, and no network has this name",
            hint="deit-transfer runs list shows the runs below a folder; a network is named as "
            "in deit_tiny_patch16_224, or deit_tiny_patch16_224=WEIGHTS.safetensors",
        )
    return name, start or PUBLISHED
