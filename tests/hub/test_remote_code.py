"""Published folders load and answer where mm1_hf cannot be imported, through every Auto class."""

import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from PIL import Image

from mm1_hf.hub import publish_to_folder

from . import small_models

pytestmark = pytest.mark.slow

# Written independently of `mm1_hf.hub.stranger`, which is what publishing itself asks. Folders
# share the process, as they do in a notebook that compares models.
STRANGER = textwrap.dedent("""
    import json, pathlib, sys

    class Absent:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] == "mm1_hf":
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    sys.meta_path.insert(0, Absent())
    import torch
    from PIL import Image
    import transformers as tf

    home, picture = pathlib.Path(sys.argv[1]), Image.open(sys.argv[2])
    trust = {"trust_remote_code": True}
    seen = {}
    for folder in sorted(home.iterdir()):
        classes = {}
        def load(name):
            made = getattr(tf, name).from_pretrained(folder, **trust)
            classes[name] = type(made).__name__
            return made
        load("AutoConfig"), load("AutoModel")
        tokenizer = load("AutoTokenizer")
        if folder.name == "decoder":
            model = load("AutoModelForCausalLM").eval()
            inputs = tokenizer("a red cat", return_tensors="pt")
            pipe = tf.pipeline("text-generation", model=model, tokenizer=tokenizer)
            said = pipe("a red cat", max_new_tokens=3)
        else:
            load("AutoImageProcessor"), load("AutoModelForMultimodalLM")
            model = load("AutoModelForImageTextToText").eval()
            processor = load("AutoProcessor")
            inputs = processor(text="a <image> b", images=picture, return_tensors="pt")
            pipe = tf.pipeline("image-text-to-text", model=str(folder), **trust)
            said = pipe(text="a <image> b", images=picture, max_new_tokens=3)
        untrusted = tf.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        with torch.no_grad():
            logits = model(**inputs).logits
        seen[folder.name] = {
            "classes": classes,
            "input_ids": inputs["input_ids"].tolist(),
            "untrusted": untrusted("a red cat")["input_ids"] == tokenizer("a red cat")["input_ids"],
            "pixels": inputs["pixel_values"].double().sum().item() if len(inputs) > 2 else None,
            "logits": logits.tolist(),
            "said": said[0]["generated_text"],
        }
    assert not any(name.split(".")[0] == "mm1_hf" for name in sys.modules)
    print(json.dumps(seen))
""")
KINDS = [*small_models.KINDS, "decoder"]


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    path = tmp_path_factory.mktemp("picture") / "picture.png"
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(scope="module")
def originals(make_tokenizer):
    torch.manual_seed(0)
    made = {kind: small_models.make(kind, make_tokenizer) for kind in small_models.KINDS}
    return made | {"decoder": small_models.make_decoder(make_tokenizer)}


@pytest.fixture(scope="module")
def told(originals, picture, tmp_path_factory):
    """What a process without mm1_hf says about each published folder."""
    scratch = tmp_path_factory.mktemp("stranger")
    for kind, (model, processor) in originals.items():
        publish_to_folder(model=model, processor=processor, folder=scratch / "home" / kind)
    result = subprocess.run(
        [sys.executable, "-c", STRANGER, str(scratch / "home"), str(picture)],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_MODULES_CACHE": str(scratch / "modules")},
        cwd=scratch,
        stdin=subprocess.DEVNULL,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout.strip().splitlines()[-1])


@pytest.mark.parametrize("kind", KINDS)
def test_a_published_folder_answers_alike_where_the_package_is_absent(
    kind, told, originals, picture
):
    model, processor = originals[kind]
    there = told[kind]
    if kind == "decoder":
        inputs = processor("a red cat", return_tensors="pt")
    else:
        inputs = processor(text="a <image> b", images=Image.open(picture), return_tensors="pt")
        assert there["pixels"] == inputs["pixel_values"].double().sum().item()
    with torch.no_grad():
        logits = model(**inputs).logits
    assert there["input_ids"] == inputs["input_ids"].tolist()
    scale = logits.abs().max().item()
    torch.testing.assert_close(torch.tensor(there["logits"]), logits, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("kind", KINDS)
def test_every_auto_class_finds_its_class_without_the_package(kind, told):
    expected = {
        "AutoConfig": "MM1TextConfig" if kind == "decoder" else "MM1Config",
        "AutoModel": "MM1TextModel" if kind == "decoder" else "MM1Model",
        "AutoModelForCausalLM": "MM1ForCausalLM",
        "AutoModelForImageTextToText": "MM1ForConditionalGeneration",
        "AutoModelForMultimodalLM": "MM1ForConditionalGeneration",
        "AutoImageProcessor": "MM1ImageProcessor",
        "AutoProcessor": "MM1Processor",
    }
    found = {name: one.removesuffix("Pil") for name, one in told[kind]["classes"].items()}
    found.pop("AutoTokenizer")
    assert found == {name: expected[name] for name in found}
    assert len(found) == (3 if kind == "decoder" else 6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_tokenizer_needs_no_trust(kind, told):
    assert told[kind]["untrusted"]
