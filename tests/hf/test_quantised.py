"""Quantised weights: the invariants hold in every format, and reports count what the model computes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch

from sparsesight import bundled, sparsify
from sparsesight.bench.ceilings import ceilings, linears, parameter_bytes
from sparsesight.bench.work import products
from sparsesight.hf.linear import is_quantised, with_gradients
from sparsesight.hf.loading import load_model
from sparsesight.images import open_image
from sparsesight.methods import make_method
from sparsesight.provenance import weights_fingerprint
from tests.hf.families import ALL
from tests.hf.families.base import SAMPLES
from tests.hf.families.case import Case
from tests.hf.quantised import FORMATS, missing, quantised

# Each format meets other families and methods: axes of positions, windows, deepstack, tiles, recurrent layers.
CASES = [
    ("bitsandbytes 8 bit", "qwen2_5_vl", "sparsevlm+"),
    ("bitsandbytes 8 bit", "gemma3", "divprune"),
    ("torchao int8", "qwen3_vl", "sparsevlm+"),
    ("torchao int8", "llava_next", "visionzip"),
    ("torchao int8, activations too", "glm4v", "fastv"),
    ("torchao int4", "qwen3_5", "halves"),
    ("torchao int4", "mistral3", "dart"),
]


def forms(*often: int) -> Any:
    """Every format; those at other places than `often` are slow."""
    return pytest.mark.parametrize(
        "form",
        [
            pytest.param(
                name,
                marks=[
                    pytest.mark.skipif(bool(missing(name)), reason=missing(name)),
                    *([] if i in often else [pytest.mark.slow]),
                ],
            )
            for i, name in enumerate(FORMATS)
        ],
    )


class Quantised(Case):
    """A family whose models have quantised weights, and how far apart two ways to compute the same may be."""

    def __init__(self, form: str, family: Any) -> None:
        super().__init__(family, 0)
        self.models = {name: quantised(form, model, name) for name, model in self.models.items()}
        self.rounds = FORMATS[form].rounds

    def tolerance(self) -> float:
        if not self.rounds:
            return self.family.tolerance
        alone = [self.dense("sdpa", i).logits[0, 0] for i in range(len(SAMPLES))]
        together = self.dense("sdpa", *range(len(SAMPLES))).logits[:, 0]
        return 4 * max(float((a - b).abs().max()) for a, b in zip(alone, together, strict=True))


@cache
def case(form: str, family: str) -> Quantised:
    (found,) = [f for f in ALL if f.name == family]
    if found.missing:
        pytest.skip(found.missing)
    return Quantised(form, found)


@pytest.mark.parametrize(("form", "family", "method"), CASES)
def test_everything_kept_is_the_dense_model(form: str, family: str, method: str) -> None:
    """Bit for bit, as is the model afterwards."""
    own = case(form, family)
    dense = own.dense("sdpa", 0, 1, 2, 3)
    with sparsify(own.models["sdpa"], method, retain=1.0):
        assert torch.equal(own.generate("sdpa", own.prompt(0, 1, 2, 3))[1], dense.logits)
    with sparsify(own.models["sdpa"], method, retain=0.4):
        assert not torch.equal(own.generate("sdpa", own.prompt(0, 1, 2, 3))[1], dense.logits)
    assert torch.equal(own.generate("sdpa", own.prompt(0, 1, 2, 3))[1], dense.logits)


@pytest.mark.parametrize(("form", "family", "method"), CASES)
def test_a_batch_is_each_sample_alone(form: str, family: str, method: str) -> None:
    own = case(form, family)
    together = own.run("sdpa", method, 0, 1, 2, 3)
    for i in range(4):
        alone = own.run("sdpa", method, i)
        for stage, other in zip(together.kept, alone.kept, strict=False):
            assert torch.equal(stage[i], other[0])
        torch.testing.assert_close(together.logits[i, 0], alone.logits[0, 0], atol=own.tolerance(), rtol=1e-3)


@pytest.mark.parametrize(
    ("form", "family", "method"), [c for c in CASES if not make_method(c[2], retain=0.4).recycled_fraction]
)
def test_oracle(form: str, family: str, method: str) -> None:
    """The sparse run is the dense run of the same quantised model, whose later layers do not see what was dropped."""
    own = case(form, family)
    run = own.run("eager", method, 1)
    _, expected = own.oracle(1, run.layers, [stage[0] for stage in run.kept])
    torch.testing.assert_close(run.logits[0, 0], expected[0, 0], atol=own.tolerance(), rtol=1e-3)
    effect = (own.dense("eager", 1).logits[0, 0] - expected[0, 0]).abs().max()
    assert effect > own.tolerance(), "pruning changes less than rounding: this says nothing"


Folders = Callable[[str], Path]
PLAIN: dict[str, Any] = {}  # method -> what it keeps of the bundled model as it is, and the report


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """The bundled model in every format, with its processor."""

    @cache
    def made(form: str) -> Path:
        folder = tmp_path_factory.mktemp("quantised")
        quantised(form, bundled.load()[0]).save_pretrained(folder)
        for file in bundled.MODEL_PATH.iterdir():
            if not (folder / file.name).exists():
                shutil.copy(file, folder)
        return folder

    return made


@forms(0, 2, 4)
def test_a_trained_model(form: str, folders: Folders) -> None:
    """Loaded as commands load it: it answers as before, costs as much, keeps nearly the same, by its tower as well."""
    plain, loaded = load_model(None, "cpu"), load_model(str(folders(form)), "cpu")
    assert any(is_quantised(linear) for linear, _ in linears(loaded.model.get_decoder()))
    assert weights_fingerprint(loaded.model) != weights_fingerprint(plain.model)
    picture = bundled.default_picture()
    entries = bundled.picture_questions()[picture.name][:3]
    inputs = loaded.processor(
        text=[f"USER: <image>\n{entry['question']} ASSISTANT:" for entry in entries],
        images=[open_image(picture)] * len(entries),
        padding=True,
        return_tensors="pt",
    )
    for method in ("sparsevlm+", "visionzip"):
        with sparsify(loaded.model, method, retain=192) as run:
            tokens = loaded.model.generate(**inputs, max_new_tokens=3, do_sample=False)
            kept, report = run.kept, run.report
        if method == "sparsevlm+":
            said = loaded.processor.batch_decode(
                tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
            )
            assert [text.strip() for text in said] == [entry["answer"] for entry in entries]
        if method not in PLAIN:
            with sparsify(plain.model, method, retain=192) as run, torch.no_grad():
                plain.model(**inputs)
                PLAIN[method] = run.kept, run.report
        other, exact = PLAIN[method]
        assert (report.macs_dense, report.macs_sparse) == (exact.macs_dense, exact.macs_sparse)
        for stage, same in zip(kept, other, strict=True):
            shared = [
                len(set(a.tolist()) & set(b.tolist())) / len(a) for a, b in zip(stage, same, strict=True)
            ]
            assert min(shared) > 0.7


@forms(0, 2, 4)
def test_what_is_timed(form: str, folders: Folders) -> None:
    """Products of quantised layers are those of the layers themselves, and their bytes are counted as they are held."""
    decoder: Any = load_model(str(folders(form)), "cpu").model.get_decoder()
    exact: Any = load_model(None, "cpu").model.get_decoder()
    layer = decoder.layers[0]
    assert len(linears(layer)) == 7 and ceilings(layer, 16).macs < float("inf")
    products(list(decoder.layers), [16] * len(decoder.layers))
    assert parameter_bytes(layer) < 0.6 * parameter_bytes(exact.layers[0])


@forms(1, 3)
def test_rows_are_traced_without_gradients_of_the_format(form: str, folders: Folders) -> None:
    """The stand-in has a gradient, is seen by the asking thread alone, and leaves nothing behind."""
    model = load_model(str(folders(form)), "cpu").model
    linear = next(m for m, _ in linears(model.model.multi_modal_projector) if is_quantised(m))
    x = torch.randn(4, linear.in_features)
    with torch.no_grad():
        expected, elsewhere = linear(x), []
        with with_gradients(linear):
            assert not torch.equal(linear(x), expected)
            thread = Thread(target=lambda: elsewhere.append(linear(x).detach()))
            thread.start()
            thread.join()
        assert torch.equal(linear(x), expected) and "forward" not in vars(linear)
    assert torch.equal(elsewhere[0], expected)
    with with_gradients(linear):
        x.requires_grad_()
        (gradient,) = torch.autograd.grad(linear(x).sum(), x)
    assert gradient.abs().sum() > 0
