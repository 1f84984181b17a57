"""Our own family: the config holds the spec itself, and tensors have the names that the spec's parameters have here."""

from __future__ import annotations

from openbook.lm.weights.config import COMMON_HARMLESS, Spec, family
from openbook.lm.weights.fields import Fields
from openbook.lm.weights.names import NameTable
from openbook.lm.weights.own import ARCHITECTURES, KEY, MODEL_TYPE, spec_of
from openbook.lm.weights.recipes import Value


class _Same(dict[str, Value]):
    """Every module is called as it is."""

    def __missing__(self, module: str) -> str:
        return module


OWN = NameTable(_Same())


@family(*ARCHITECTURES, model_type=MODEL_TYPE, names=OWN)
def own(fields: Fields) -> Spec:
    """What `openbook convert` writes where no other family says what the model is."""
    spec = spec_of(fields.take(KEY))
    fields.finish(COMMON_HARMLESS)
    return spec
