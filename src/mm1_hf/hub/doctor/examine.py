"""`examine`: every check on a checkpoint, in an order in which each may rely on those before it."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from mm1_hf.hub.doctor import answers, inputs, serving, stored
from mm1_hf.hub.doctor.findings import Diagnosis, Fault, Finding
from mm1_hf.hub.doctor.patient import Patient
from mm1_hf.hub.loading import local_folder
from mm1_hf.hub.rehearsal import import_required


class Check(NamedTuple):
    """One check.

    Attributes:
        name: Its name in the table.
        run: Returns what was found, or raises `Fault`.
        needs: Checks that must have passed; otherwise this one is skipped.
        sees: Whether it is about pictures, and so not for a lone decoder.
    """

    name: str
    run: Callable[[Patient], str]
    needs: tuple[str, ...] = ()
    sees: bool = False


CHECKS = (
    Check("files", stored.files),
    Check("configuration", stored.configuration, ("files",)),
    Check("finite weights", stored.numbers, ("files",)),
    Check("model", stored.loads, ("configuration",)),
    Check("keys", stored.keys, ("model",)),
    Check("shapes", stored.shapes, ("model",)),
    Check("dtypes", stored.dtypes, ("model",)),
    Check("tied weights", stored.tied, ("model", "keys")),
    Check("processor files", stored.processor_files, sees=True),
    Check("processor", inputs.loads, ("configuration", "processor files"), sees=True),
    Check("processor fields", inputs.fields, ("processor",), sees=True),
    Check("tiling settings", inputs.tiling, ("processor",), sees=True),
    Check("tokenizer", inputs.tokenizer, ("configuration", "processor")),
    Check("token counts", inputs.counts, ("processor",), sees=True),
    Check("chat template", inputs.chat, ("processor",), sees=True),
    Check(
        "visual tokens",
        answers.placeholders,
        ("model", "shapes", "processor fields", "token counts"),
        sees=True,
    ),
    Check(
        "answer",
        answers.answers,
        ("finite weights", "shapes", "tokenizer", "tied weights", "processor fields"),
    ),
    Check("generation", answers.generation, ("model", "tokenizer")),
    Check("serving hooks", serving.hooks, ("model", "shapes", "processor")),
    Check("remote code", serving.remote_code, ("configuration", "processor")),
)


def examine(
    source: str | Path,
    *,
    revision: str | None = None,
    fresh_processes: bool = True,
    requires: Sequence[str] = (),
) -> Diagnosis:
    """Examine a checkpoint: does it load and work for others as it should?

    Args:
        source: A folder, or the id of a Hub repository.
        revision: Branch, tag or commit of a repository.
        fresh_processes: Whether to load it also in new processes, through every Auto class: with
            mm1_hf, and without, if it carries its code. It takes some seconds for each.
        requires: Modules to import first, such as one with a connector of your own.

    Raises:
        ValueError: If there is no such folder.
        OSError: If the Hub does not give the repository.
    """
    import_required(requires)
    patient = Patient(local_folder(source, revision=revision))
    findings = list(_examine(patient))
    passed = {one.check for one in findings if one.outcome == "pass"}
    if fresh_processes:
        findings += _in_fresh_processes(patient, passed, requires)
    return Diagnosis(str(source), tuple(findings))


def _examine(patient: Patient) -> Iterator[Finding]:
    failed: set[str] = set()
    # A file that cannot be read is the first check's finding, not an error of the examination.
    readable = _is_readable(patient)
    for check in CHECKS:
        if check.sees and readable and not patient.sees:
            continue
        broken = [name for name in check.needs if name in failed]
        if broken:
            failed.add(check.name)
            yield Finding(check.name, "skip", f"needs {', '.join(broken)}")
            continue
        finding = _run(check, patient)
        if finding.outcome == "fail":
            failed.add(check.name)
        yield finding


def _is_readable(patient: Patient) -> bool:
    try:
        return bool(patient.read_json("config.json"))
    except ValueError:
        return False


def _run(check: Check, patient: Patient) -> Finding:
    try:
        return Finding(check.name, "pass", check.run(patient))
    except Fault as fault:
        return Finding(check.name, "fail", fault.found, fault.remedy)
    except Exception as error:
        found = f"{type(error).__name__}: {error}"
        return Finding(check.name, "fail", found, "Read the error: it names what does not fit.")


def _in_fresh_processes(
    patient: Patient, passed: set[str], requires: Sequence[str]
) -> Iterator[Finding]:
    needed = {"model", "tokenizer"} | ({"processor"} if patient.sees else set())
    if not needed <= passed:
        missing = ", ".join(sorted(needed - passed))
        yield Finding("fresh process", "skip", f"needs {missing}")
        return
    yield from serving.fresh_process(patient, code="installed", requires=requires)
    has_code = bool(patient.read_json("config.json").get("auto_map"))
    if has_code and "remote code" in passed:
        yield from serving.fresh_process(patient, code="remote")
