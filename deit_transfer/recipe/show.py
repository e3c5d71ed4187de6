"""Show a recipe as a page: every value, a sentence on it, and its source."""

import tomli_w

from deit_transfer.recipe.checks import scaled_peak_lr
from deit_transfer.recipe.loader import field_locations
from deit_transfer.recipe.schema import Recipe, Section


def annotated_toml(recipe: Recipe) -> str:
    """Return the whole recipe as TOML, each value under its sentence and followed by its source."""
    sentences = field_locations()
    peak = f"{recipe.optim.peak_lr:g} at batch 512, {scaled_peak_lr(recipe):g} after scaling"
    lines = [f"# {recipe.title}", f"# Peak learning rate: {peak}", ""]
    sections: list[str] = []
    for name in Recipe.model_fields:
        value = getattr(recipe, name)
        if isinstance(value, Section):
            sections += ["", f"[{name}]", *_section_lines(name, value, recipe, sentences)]
        elif name != "sources":
            lines += _value_lines(name, name, value, recipe, sentences)
    return "\n".join([*lines, *sections])


def _section_lines(
    name: str, section: Section, recipe: Recipe, sentences: dict[str, str]
) -> list[str]:
    return [
        line
        for key in type(section).model_fields
        for line in _value_lines(key, f"{name}.{key}", getattr(section, key), recipe, sentences)
    ]


def _value_lines(
    key: str, location: str, value: object, recipe: Recipe, sentences: dict[str, str]
) -> list[str]:
    source = recipe.sources.get(location)
    source_line = [f"# source: {source}"] if source else []
    if value is None:
        return [f"# {sentences[location]}", *source_line, f"# {key} ="]
    plain = list(value) if isinstance(value, tuple) else value
    assignment = tomli_w.dumps({key: plain}, multiline_strings=False).strip()
    assignment = " ".join(part.strip() for part in assignment.splitlines())
    return [f"# {sentences[location]}", *source_line, assignment]
