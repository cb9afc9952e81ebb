import json
import os
import pickle

import pytest

from mm1_hf.data.errors import BadData, BadDataError, ErrorLog, ErrorPolicy, Place


def make_log(folder, *, planned=100, unmeasured=0, **policy) -> ErrorLog:
    return ErrorLog(
        folder=folder,
        policy=ErrorPolicy(**{"mode": "skip", "budget_per_source": 3, **policy}),
        planned={"web": planned, "captions": planned},
        unmeasured={"web": unmeasured},
    )


def skip(log: ErrorLog, pack: int, *, source: str = "web", reason: str = "corrupt") -> None:
    bad = BadData(reason, "It is broken.")
    log.handle(bad, source=source, key=f"page-{pack}", place=Place(pack, 0, 2))


def test_raise_names_document_source_pack_and_image(tmp_path):
    log = make_log(tmp_path, mode="raise")
    with pytest.raises(
        BadDataError, match=r"Image 2 of document 'page-7' of source 'web' \(pack 7"
    ):
        skip(log, 7)
    assert log.counts() == {}


def test_skips_are_counted_by_source_and_reason_and_logged_with_the_key(tmp_path, caplog):
    log = make_log(tmp_path)
    skip(log, 1)
    skip(log, 2, reason="empty")
    skip(log, 3, source="captions")
    assert log.counts() == {"web": {"corrupt": 1, "empty": 1}, "captions": {"corrupt": 1}}
    assert [record["key"] for record in log.records()] == ["page-1", "page-2", "page-3"]
    assert all(f"page-{pack}" in caplog.text for pack in (1, 2, 3))


def test_over_the_budget_the_error_says_source_counts_and_last_key(tmp_path):
    log = make_log(tmp_path)
    for pack in range(3):
        skip(log, pack)
    skip(log, 0, source="captions")
    with pytest.raises(BadDataError, match=r"'web' has 4 .*4 corrupt.*'page-3'.*budget is 3 of"):
        skip(log, 3)
    assert log.counts()["web"] == {"corrupt": 4}


def test_a_share_is_of_what_the_plan_reads(tmp_path):
    log = make_log(tmp_path, budget_per_source=0.02)
    skip(log, 0)
    skip(log, 1)
    with pytest.raises(BadDataError, match="budget is 2 of the 100"):
        skip(log, 2)


def test_the_same_place_counts_once_whoever_meets_it_and_whenever(tmp_path, caplog):
    log = make_log(tmp_path)
    skip(log, 5)
    caplog.clear()
    skip(log, 5)
    resumed = make_log(tmp_path)
    skip(resumed, 5)
    assert resumed.counts() == log.counts() == {"web": {"corrupt": 1}}
    assert not caplog.records


# Python 3.12 warns of forks beside threads; the child here only writes a file.
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_logs_of_several_processes_share_one_budget(tmp_path):
    log = make_log(tmp_path)
    skip(log, 0)
    child = os.fork()
    if child == 0:
        try:
            for pack in (1, 2):
                skip(log, pack)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert log.counts() == {"web": {"corrupt": 3}}
    assert len(list(tmp_path.glob("*.jsonl"))) == 2
    with pytest.raises(BadDataError):
        skip(log, 3)


def test_a_line_counts_when_it_is_finished_and_never_if_its_process_died(tmp_path):
    log = make_log(tmp_path)
    skip(log, 0)
    record = {"place": [9, 0, 0], "source": "web", "reason": "empty", "key": "k", "message": ""}
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps(record)[:-4])
    assert log.counts() == make_log(tmp_path).counts() == {"web": {"corrupt": 1}}
    assert len(log.records()) == 1
    other.write_text(json.dumps(record) + "\n")
    assert log.counts() == {"web": {"corrupt": 1, "empty": 1}}, "it was only being written"


def test_a_pickled_log_continues_the_count_in_a_file_of_its_own(tmp_path):
    log = make_log(tmp_path)
    skip(log, 0)
    copy = pickle.loads(pickle.dumps(log))
    skip(copy, 1)
    assert copy.counts() == log.counts() == {"web": {"corrupt": 2}}


@pytest.mark.parametrize(
    "arguments",
    [{"mode": "ignore"}, {"budget_per_source": -1}, {"budget_per_source": 1.5}],
)
def test_a_policy_refuses_what_means_nothing(arguments):
    with pytest.raises(ValueError, match=r"expected|must be one of"):
        ErrorPolicy(**arguments)


def test_a_whole_number_is_a_number_and_a_float_a_share():
    assert ErrorPolicy(budget_per_source=1).allowed(5000) == 1
    assert ErrorPolicy(budget_per_source=1.0).allowed(5000) == 5000


def test_what_could_not_be_measured_counts_towards_the_budget(tmp_path):
    log = make_log(tmp_path, unmeasured=3)
    with pytest.raises(BadDataError, match="3 unmeasured"):
        skip(log, 0)
    with pytest.raises(BadDataError, match=r"'web' has 4 .*4 unmeasured"):
        make_log(tmp_path / "new", unmeasured=4)


def test_conversations_that_lost_their_answers_count_towards_the_budget(tmp_path):
    arguments = {"folder": tmp_path, "planned": {"chat": 10}, "unmeasured": {"chat": 1}}
    policy = ErrorPolicy(mode="skip", budget_per_source=2)
    log = ErrorLog(policy=policy, unanswered={"chat": 1}, **arguments)
    assert pickle.loads(pickle.dumps(log)).counts() == {"chat": {"unanswered": 1, "unmeasured": 1}}
    with pytest.raises(BadDataError, match=r"3 images or documents.*2 unanswered"):
        ErrorLog(policy=policy, unanswered={"chat": 2}, **arguments)
