"""The bundled model: loads as any checkpoint does, and answers the bundled questions about the bundled pictures."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from sparsesight import SparseSightError, bundled, sparsify
from sparsesight.scenes.dataset import examples
from sparsesight.scenes.questions import KINDS
from sparsesight.scenes.scenes import COLORS, SHAPES, VERSION, questions, render

CATALOGUE = json.loads((Path(bundled.__file__).parent / "pictures" / "questions.json").read_text("utf-8"))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """The matrices are so small that threads gain little, and on a busy machine they lose tenfold by waiting."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def loaded() -> tuple[Any, Any]:
    return bundled.load()


def chat(processor: Any, question: str) -> str:
    content = [{"type": "image"}, {"type": "text", "text": question}]
    return processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)


def ask(loaded: tuple[Any, Any], image: Image.Image, texts: list[str]) -> list[str]:
    """Greedy answers to questions about one picture, in one batch."""
    model, processor = loaded
    prompts = [chat(processor, text) for text in texts]
    inputs = processor(text=prompts, images=[image] * len(prompts), padding=True, return_tensors="pt")
    with torch.inference_mode():
        tokens = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    replies = processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return [reply.strip() for reply in replies]


# Loading


def test_the_stock_auto_classes_load_it_whole() -> None:
    model, report = AutoModelForImageTextToText.from_pretrained(bundled.MODEL_PATH, output_loading_info=True)
    assert type(model).__name__ == "LlavaForConditionalGeneration"
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert type(AutoProcessor.from_pretrained(bundled.MODEL_PATH)).__name__ == "LlavaProcessor"


def test_load_gives_a_model_ready_to_answer(loaded: tuple[Any, Any]) -> None:
    model, _ = loaded
    assert not model.training
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.config.text_config.num_hidden_layers >= 8


def test_load_honours_dtype() -> None:
    model, _ = bundled.load(dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_a_picture_becomes_576_tokens(loaded: tuple[Any, Any]) -> None:
    model, processor = loaded
    image = Image.open(bundled.default_picture())
    inputs = processor(text=chat(processor, "Is there a red ring?"), images=image, return_tensors="pt")
    assert (inputs["input_ids"] == model.config.image_token_id).sum() == 576


def test_importing_the_package_and_listing_pictures_leaves_transformers_alone() -> None:
    # sparsesight itself may import transformers: a bare stand-in for it keeps this about the subpackage.
    program = (
        "import sys, types; package = types.ModuleType('sparsesight'); package.__path__ = [sys.argv[1]];"
        "sys.modules['sparsesight'] = package; from sparsesight import bundled; import sparsesight.scenes.scenes;"
        "bundled.pictures(); bundled.picture_questions();"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers')))"
    )
    package = Path(bundled.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", program, str(package)], env=os.environ, check=False)
    assert done.returncode == 0


# The chat template


def test_a_question_becomes_the_prompt_of_training(loaded: tuple[Any, Any]) -> None:
    _, processor = loaded
    assert chat(processor, "Where is the red ring?") == "USER: <image>\nWhere is the red ring? ASSISTANT:"


def test_a_prompt_is_decoded_as_it_was_written(loaded: tuple[Any, Any]) -> None:
    tokenizer = loaded[1].tokenizer
    for question in {x["question"] for scene in CATALOGUE.values() for x in scene["questions"]}:
        prompt = chat(loaded[1], question)
        assert tokenizer.decode(tokenizer(prompt).input_ids) == f"<s> {prompt}"
        assert tokenizer.decode(tokenizer(question).input_ids, skip_special_tokens=True) == question


def test_images_come_first_whatever_their_place(loaded: tuple[Any, Any]) -> None:
    _, processor = loaded
    content = [{"type": "text", "text": "Where is the red ring?"}, {"type": "image"}, {"type": "image"}]
    prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    assert prompt == "USER: <image>\n<image>\nWhere is the red ring? ASSISTANT:"


def test_plain_strings_and_several_turns(loaded: tuple[Any, Any]) -> None:
    _, processor = loaded
    turns = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Is there a red ring?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "yes"}]},
        {"role": "user", "content": "Where is the red ring?"},
    ]
    said = "USER: <image>\nIs there a red ring? ASSISTANT: yes USER: Where is the red ring? "
    assert processor.apply_chat_template(turns) == said
    assert processor.apply_chat_template(turns, add_generation_prompt=True) == said + "ASSISTANT:"


def test_the_template_tokenizes_as_the_prompt_does(loaded: tuple[Any, Any]) -> None:
    _, processor = loaded
    image = Image.open(bundled.default_picture())
    content = [{"type": "image", "image": image}, {"type": "text", "text": "Is there a red ring?"}]
    made = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    prompt = "USER: <image>\nIs there a red ring? ASSISTANT:"
    meant = processor(text=prompt, images=image, return_tensors="pt")
    assert made["input_ids"].tolist() == meant["input_ids"].tolist()
    assert torch.equal(made["pixel_values"], meant["pixel_values"])


# Pictures and their questions


def test_pictures_are_those_of_the_catalogue() -> None:
    paths = bundled.pictures()
    assert len(paths) == 4
    assert [path.name for path in paths] == list(CATALOGUE) == list(bundled.picture_questions())
    assert sorted(paths) == sorted(paths[0].parent.glob("*.png"))
    assert bundled.default_picture() == paths[0]


def test_stored_questions_cover_every_kind() -> None:
    kinds = {entry["kind"] for entries in bundled.picture_questions().values() for entry in entries}
    assert kinds == set(KINDS)


@pytest.mark.parametrize("name", CATALOGUE)
def test_pictures_and_questions_are_those_of_their_seeds(name: str) -> None:
    entry = CATALOGUE[name]
    scene = render(entry["seed"])
    assert entry["version"] == VERSION
    assert np.array_equal(scene.image, Image.open(bundled.default_picture().parent / name))
    true = {(q.text, q.answer, q.kind) for q in questions(scene, 48)}
    assert {(q["question"], q["answer"], q["kind"]) for q in entry["questions"]} <= true


@pytest.mark.parametrize(
    ("name", "every"),
    [pytest.param(x, n, marks=pytest.mark.slow if n == 1 else ()) for x in CATALOGUE for n in (1, 3)],
)
def test_the_model_answers_the_stored_questions(name: str, every: int, loaded: tuple[Any, Any]) -> None:
    entries = bundled.picture_questions()[name][::every]
    image = Image.open(bundled.default_picture().parent / name)
    replies = ask(loaded, image, [entry["question"] for entry in entries])
    assert replies == [entry["answer"] for entry in entries]


@pytest.mark.parametrize("scenes", [1, pytest.param(6, marks=pytest.mark.slow)])
def test_the_model_answers_questions_it_has_not_seen_and_content_words_rate(
    loaded: tuple[Any, Any], scenes: int
) -> None:
    """Some scenes of the split test; the model card has the figures of all."""
    model, processor = loaded
    right, asked = 0, 0
    for _, group in groupby(examples("test", scenes), key=lambda example: example.scene.seed):
        some = list(group)
        replies = ask(loaded, some[0].image, [example.question.text for example in some])
        right += sum(reply == example.question.answer for reply, example in zip(replies, some, strict=True))
        asked += len(some)
        inputs = processor(
            text=chat(processor, some[3].question.text), images=some[0].image, return_tensors="pt"
        )
        with torch.inference_mode(), sparsify(model, "sparsevlm+", trace=True) as run:
            model(**inputs)
        stage = run.trace[0].stage
        words = processor.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0, -stage.rater.shape[1] :])
        raters = {word for word, rates in zip(words, stage.rater[0].tolist(), strict=True) if rates}
        assert raters & {*SHAPES, *COLORS} and "ASSISTANT" not in raters
    assert right / asked > 0.9


def test_the_template_is_the_one_of_training() -> None:
    source = Path(__file__).parents[2] / "benchmarks/training/chat_template.jinja"
    assert (bundled.MODEL_PATH / "chat_template.jinja").read_text("utf-8") == source.read_text("utf-8")


def test_the_model_looks_at_the_picture(loaded: tuple[Any, Any]) -> None:
    """The same questions before a grey picture: right answers above came from the pixels."""
    entries = bundled.picture_questions()[bundled.default_picture().name]
    replies = ask(
        loaded, Image.new("RGB", (336, 336), (110, 110, 110)), [entry["question"] for entry in entries]
    )
    wrong = sum(reply != entry["answer"] for reply, entry in zip(replies, entries, strict=True))
    assert wrong >= len(entries) // 2


def test_a_dtype_is_no_name() -> None:
    with pytest.raises(SparseSightError, match=r"name=.float16. is no model .* load.dtype="):
        bundled.load("float16")
