"""The model that lmms-eval runs: batches, order, costs, switching, errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("lmms_eval", reason="needs lmms-eval: pip install sparsesight[eval]")

from lmms_eval.api.instance import GenerationResult, Instance
from lmms_eval.models import get_model

from sparsesight import SparseSightError, sparsify
from sparsesight.compare import prepare
from sparsesight.eval.lmms.manifest import manifest
from sparsesight.eval.lmms.model import SparseSightModel, generation_options
from sparsesight.hf.loading import Loaded
from sparsesight.methods import make_method

from ..fixtures import asked

DOCS = [*asked(["color", "shape"]), *asked(["where", "neighbor"])[:4]]
GREEDY = {"max_new_tokens": 6, "until": ["\n\n"]}


def messages(doc: dict[str, Any]) -> list[dict[str, Any]]:
    picture = [{"type": "image", "url": doc["picture"]}] if doc.get("picture") else []
    return [{"role": "user", "content": [*picture, {"type": "text", "text": doc["question"]}]}]


def requests(
    documents: list[int], options: Any = GREEDY, task: str = "scenes", **more: Any
) -> list[Instance]:
    return [
        Instance(
            "generate_until",
            ("", messages, dict(options), document, task, "test"),
            0,
            {"task": task, "doc_id": document, "repeats": 1, **more},
        )
        for document in documents
    ]


def made(**options: Any) -> SparseSightModel:
    model = SparseSightModel(**options)
    model.task_dict["scenes"] = {"test": DOCS}
    return model


@pytest.fixture(scope="module")
def alone() -> SparseSightModel:
    return made()


@pytest.fixture(scope="module")
def three() -> SparseSightModel:
    return made(batch_size=3)


def test_lmms_eval_finds_it_by_its_manifest() -> None:
    entry = manifest()
    assert entry.model_id == "sparsesight"
    module, _, name = entry.chat_class_path.rpartition(".")
    assert (module, name) == (SparseSightModel.__module__, SparseSightModel.__name__)


def test_lmms_eval_finds_it_by_name() -> None:
    from importlib.metadata import entry_points

    if "sparsesight" not in {entry.name for entry in entry_points(group="lmms_eval.models")}:
        pytest.skip("needs the package installed, for its entry points")
    assert get_model("sparsesight") is SparseSightModel


def test_arguments_may_be_strings() -> None:
    model = SparseSightModel.create_from_arg_string(
        "pretrained=bundled,method=sparsevlm+,retain=64,dtype=bfloat16,device=cpu", {"batch_size": "2"}
    )
    assert model.method == make_method("sparsevlm+", retain=64)
    assert (model.batch_size, model._model.dtype, model.name) == (2, torch.bfloat16, "bundled")
    model = SparseSightModel.create_from_arg_string("method=sparsevlm,retain=300/200/110")
    assert model.method == make_method("sparsevlm", retain=(300, 200, 110))
    model = SparseSightModel.create_from_arg_string("method=sparsevlm+(retain=96)")
    assert model.method == make_method("sparsevlm+", retain=96)


@pytest.mark.parametrize(
    "method",
    [
        None,
        "sparsevlm",
        "divprune",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("sparsevlm+", "pooling")),
    ],
)
def test_a_batch_gives_each_sample_what_it_gets_alone(
    method: str | None, alone: SparseSightModel, three: SparseSightModel
) -> None:
    order = [7, 0, 10, 3, 11, 1, 5]
    for model in (alone, three):
        model.use(make_method(method, retain=96) if method else None)
    single, batched = alone.generate_until(requests(order)), three.generate_until(requests(order))
    assert [r.text for r in single] == [r.text for r in batched]
    assert alone.costs == three.costs
    if method is None:
        assert [r.text for r in batched] == [DOCS[i]["answer"] for i in order]


def test_answers_come_in_the_order_of_the_requests(three: SparseSightModel) -> None:
    """Requests of two tasks and two lengths, mixed."""
    three.use(None)
    three.task_dict["other"] = {"test": DOCS}
    mixed = [
        *requests([8], {"max_new_tokens": 1}),
        *requests([0, 4], task="other"),
        *requests([9]),
        *requests([1], task="other"),
        *requests([10], {"max_new_tokens": 1}),
    ]
    expected = [DOCS[r.doc_id]["answer"] for r in mixed]
    expected[0], expected[-1] = expected[0].split()[0], expected[-1].split()[0]
    assert [r.text for r in three.generate_until(mixed)] == expected
    assert list(three.costs) == [
        ("other", 0),
        ("other", 4),
        ("other", 1),
        ("scenes", 8),
        ("scenes", 10),
        ("scenes", 9),
    ]


def test_an_answer_tells_how_many_tokens_it_took(alone: SparseSightModel) -> None:
    alone.use(None)
    (result,) = alone.generate_until(requests([0]))
    assert isinstance(result, GenerationResult)
    assert (result.text, result.token_counts.output_tokens) == ("white", 2)  # the word and the end


def test_costs_are_those_of_the_report(alone: SparseSightModel) -> None:
    method = make_method("sparsevlm", retain=96)
    alone.use(method)
    alone.generate_until(requests([0]))
    alone.use(None)
    cost = alone.costs.get(("scenes", 0))
    assert cost is None  # use() starts anew

    seen = []
    alone.on_sample = lambda *sample: seen.append(sample)
    alone.use(method)
    alone.generate_until(requests([0]))
    alone.on_sample = None
    alone.use(None)
    loaded = Loaded(alone._model, alone._prompts.processor, "bundled")
    with sparsify(alone._model, method) as run:
        alone._model.generate(**prepare(loaded, DOCS[0]["picture"], DOCS[0]["question"]), max_new_tokens=1)
    ((task, document, cost),) = seen
    report = run.report
    (sample,) = report.samples
    assert (task, document) == ("scenes", 0)
    assert cost["macs_sparse"] == sample.macs_sparse == report.macs_sparse < cost["macs_dense"]
    assert cost["macs_scoring"] == sample.macs_scoring > 0
    assert (cost["equal_tokens"], cost["equal_tokens_entering"]) == (
        sample.equal_tokens,
        sample.equal_tokens_entering,
    )
    assert (cost["kv_bytes_dense"], cost["kv_bytes_sparse"]) == (
        report.kv_bytes_dense,
        report.kv_bytes_sparse,
    )
    assert len(cost["kept"]) == 3
    assert cost["kept"] == [sample.visual_per_layer[layer + 1] for layer in report.layers]


def test_the_cost_of_a_dense_sample_is_the_dense_side_of_a_sparse_one(alone: SparseSightModel) -> None:
    costs = []
    for method in (None, make_method("sparsevlm+", retain=96)):
        alone.use(method)
        alone.generate_until(requests([3]))
        costs.append(alone.costs["scenes", 3])
    dense, sparse = costs
    for key in ("visual_tokens", "text_tokens", "macs_dense", "kv_bytes_dense"):
        assert dense[key] == sparse[key]
    assert (dense["macs_sparse"], dense["kept"]) == (dense["macs_dense"], [])


def test_a_sample_without_a_picture_costs_what_it_costs(three: SparseSightModel) -> None:
    three.task_dict["mixed"] = {"test": [DOCS[0], {"question": DOCS[0]["question"]}, DOCS[1]]}
    three.use(make_method("sparsevlm+", retain=96))
    results = three.generate_until(requests([0, 1, 2], task="mixed"))
    assert (results[0].text, results[2].text) == (DOCS[0]["answer"], DOCS[1]["answer"])
    assert [three.costs["mixed", i]["visual_tokens"] for i in range(3)] == [576, 0, 576]
    assert three.costs["mixed", 1]["equal_tokens"] == 0
    assert three.costs["mixed", 1]["macs_sparse"] == three.costs["mixed", 1]["macs_dense"] > 0


def test_clean_keeps_the_model(alone: SparseSightModel) -> None:
    alone.use(None)
    alone.clean()
    assert alone.generate_until(requests([0]))[0].text == "white"


def test_use_puts_the_model_back(alone: SparseSightModel) -> None:
    alone.use(make_method("sparsevlm+", retain=96))
    assert any(module._forward_pre_hooks for module in alone._model.modules())
    alone.use(None)
    assert not any(module._forward_pre_hooks for module in alone._model.modules())
    with pytest.raises(SparseSightError):
        alone.use(make_method("sparsevlm+", layers=(99, 100, 101)))
    assert alone.method is None
    assert alone.generate_until(requests([0]))[0].text == "white"


def test_a_copy_that_evens_out_ranks_is_not_counted(alone: SparseSightModel) -> None:
    alone.use(None)
    alone.generate_until(requests([0]) + requests([1], __padding_only__=True))
    assert list(alone.costs) == [("scenes", 0)]


def test_a_failure_names_the_task_and_the_documents(three: SparseSightModel) -> None:
    three.use(None)
    three.task_dict["broken"] = {"test": [DOCS[0], {**DOCS[1], "question": "what is <image>?"}]}
    with pytest.raises(SparseSightError, match=r"task 'broken', documents \[0, 1\].*'<image>'"):
        three.generate_until(requests([0, 1], task="broken"))

    def out_of_order(doc: dict[str, Any]) -> list[dict[str, Any]]:
        raise KeyError("image")

    request = requests([0])[0]
    request.arguments = ("", out_of_order, GREEDY, 0, "scenes", "test")
    with pytest.raises(SparseSightError, match=r"task 'scenes', documents .*image"):
        three.generate_until([request])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batchsize": 3}, "batchsize"),
        ({"batch_size": "auto"}, "batch_size='auto'"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"frames": 0}, "frames=0"),
        ({"method": "magic"}, "magic"),
        ({"method": "dense", "retain": 64}, "retain=64"),
        ({"method": "sparsevlm+", "retain": "many"}, "many"),
        ({"prompts": "llava"}, "prompts='llava'"),
        ({"pretrained": "./no/model"}, "does not exist"),
        ({"dtype": "float8"}, "float8"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(SparseSightError, match=message):
        SparseSightModel(**arguments)


def test_tasks_of_another_kind_are_refused(alone: SparseSightModel) -> None:
    with pytest.raises(SparseSightError, match=r"'scenes'.*likelihoods"):
        alone.loglikelihood(requests([0]))
    with pytest.raises(SparseSightError, match=r"'scenes'.*rounds"):
        alone.generate_until_multi_round(requests([0]))


def test_generation_is_greedy_whatever_temperature_a_task_names() -> None:
    how, stops = generation_options({"temperature": 0.2, "do_sample": False, "until": ["\n\n", "ASSISTANT:"]})
    assert (how["do_sample"], how["temperature"], how["max_new_tokens"]) == (False, None, 128)
    assert stops == ["ASSISTANT:"]
    with pytest.raises(SparseSightError, match="do_sample"):
        generation_options({"do_sample": True, "temperature": 1.0})


def test_answers_are_cut_at_the_task_s_stops(alone: SparseSightModel) -> None:
    alone.use(None)
    full, cut = (
        alone.generate_until(requests([8], {"max_new_tokens": 6, "until": until}))[0].text
        for until in (["\n\n"], "right")
    )
    assert full == DOCS[8]["answer"] == "top right"
    assert cut == "top"
