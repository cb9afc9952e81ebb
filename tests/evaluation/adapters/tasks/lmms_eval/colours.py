"""How the tasks of this folder read a row: see the YAML files beside."""


def doc_to_visual(doc):
    return [image.convert("RGB") for image in doc["images"]]


def doc_to_text(doc, lmms_eval_specific_kwargs=None):
    return doc["question"]


def doc_to_messages(doc, lmms_eval_specific_kwargs=None):
    """The pictures of a row among words: `First: <picture> Second: <picture> question`."""
    content = []
    for name, image in zip(("First: ", " Second: ", " Third: "), doc["images"], strict=False):
        content += [{"type": "text", "text": name}, {"type": "image", "url": image.convert("RGB")}]
    content.append({"type": "text", "text": f" {doc['question']}"})
    return [{"role": "user", "content": content}]


def doc_to_choice(doc):
    return ["red", "green", "blue"]


def doc_to_target(doc):
    return doc["answer"]


def doc_to_choice_index(doc):
    return doc_to_choice(doc).index(doc["answer"])


def score(doc, results):
    return {"exact": float(results[0].strip() == doc["answer"])}
