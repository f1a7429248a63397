"""Which replica of a cluster an ingress sends a request to. Needs no Ray."""

from scoring.engine_client import EngineState
from scoring.router import BUSY, CHUNK_TOKENS, KNOWN_WORTH_WHERE_BUSY, PromptKey, prompt_key
from server.ray.fleet import Fleet
from server.ray.messages import Report

from .scripted import make_picture, make_sequence


def text(number: int, num_chunks: int = 4) -> PromptKey:
    return prompt_key(make_sequence(prompt=[number] * (num_chunks * CHUNK_TOKENS) + [1]))


def about(picture: str, question: int) -> PromptKey:
    prompt = [question] * 5 + [-1] * 200 + [question] * 100
    return prompt_key(make_sequence(prompt=prompt, pictures={5: make_picture(picture, 200)}))


def report(*known: PromptKey, num_requests: int = 0, num_tokens: int = 0) -> Report:
    return Report(
        state=EngineState.READY,
        limits=None,
        stats=None,
        description=None,
        step_age_s=0.0,
        num_requests=num_requests,
        num_tokens=num_tokens,
        chunks=[chunk for key in known for chunk in reversed(key.chunks)],
        pictures=[picture.digest for key in known for picture in key.pictures],
    )


def fleet_of(*names: str) -> Fleet:
    fleet = Fleet()
    fleet.update(dict.fromkeys(names))
    return fleet


class Sender:
    """Opens sequences of its own names."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.num_sent = 0

    def send(self, prompt: PromptKey) -> str:
        """The sequence stays open, at the replica that was chosen."""
        self.num_sent += 1
        self.fleet.opened(f"s{self.num_sent}")
        return self.fleet.choose(f"s{self.num_sent}", prompt)[0]

    def send_and_end(self, prompt: PromptKey) -> str:
        chosen = self.send(prompt)
        self.fleet.ended(f"s{self.num_sent}")
        return chosen


def test_a_second_turn_lands_where_the_first_went() -> None:
    sender = Sender(fleet_of("a", "b", "c"))
    homes = [sender.send_and_end(text(number)) for number in range(6)]
    assert sorted(homes) == ["a", "a", "b", "b", "c", "c"]
    assert [sender.send_and_end(text(number)) for number in range(6)] == homes


def test_a_picture_lands_where_it_is_known_whatever_is_asked() -> None:
    sender = Sender(fleet_of("a", "b"))
    home = sender.send_and_end(about("cat", 1))
    assert sender.send_and_end(about("dog", 1)) != home
    assert {sender.send_and_end(about("cat", question)) for question in (2, 3, 4)} == {home}


def test_a_busy_replica_gets_what_it_knows_up_to_the_margin() -> None:
    fleet = fleet_of("a", "b")
    sender = Sender(fleet)
    known = text(1, 1)
    home = sender.send_and_end(known)
    margin = int(KNOWN_WORTH_WHERE_BUSY * CHUNK_TOKENS / (1 - BUSY / 2))  # beside one that is idle
    for load, stays in ((margin - 1, True), (margin + 1, False)):
        fleet.update({"a": None, "b": None} | {home: report(num_tokens=load)})
        assert (sender.send_and_end(known) == home) == stays


def test_the_others_follow_by_load() -> None:
    fleet = fleet_of("a", "b", "c")
    fleet.update(
        {
            "a": report(num_tokens=900),
            "b": report(num_tokens=100),
            "c": report(num_tokens=500),
        }
    )
    fleet.opened("s")
    assert fleet.choose("s", text(1)) == ["b", "c", "a"]


def test_tokens_count_while_a_sequence_is_open_and_grow_with_it() -> None:
    fleet = fleet_of("a", "b")
    sender = Sender(fleet)
    long, short = text(1, 8), text(2, 4)
    home = sender.send(long)
    assert sender.send(short) != home
    for _ in range(long.num_tokens):
        fleet.grew("s2")
    assert sender.send(text(3, 1)) == home
    fleet.ended("s2")
    assert sender.send(text(4, 1)) != home


def test_what_other_ingresses_sent_is_learnt_from_reports() -> None:
    for home in "abc":
        fleet = fleet_of("a", "b", "c")
        fleet.update({name: report(text(7)) if name == home else report() for name in "abc"})
        assert Sender(fleet).send(text(7)) == home


def test_ones_own_requests_in_a_report_are_not_counted_twice() -> None:
    fleet = fleet_of("a", "b")
    sender = Sender(fleet)
    prompt = text(1, 2)
    home = sender.send(prompt)
    other = "b" if home == "a" else "a"
    reports = {home: report(num_tokens=prompt.num_tokens, num_requests=1), other: report()}
    fleet.update(reports)
    fleet.ended("s1")
    fleet.update(reports | {other: report(num_tokens=10)})
    assert sender.send(text(2, 1)) == home


def test_a_full_replica_comes_last() -> None:
    fleet = fleet_of("a", "b")
    fleet.max_requests = 2
    fleet.update({"a": report(num_requests=2), "b": report(num_requests=1, num_tokens=10_000)})
    fleet.opened("s")
    assert fleet.choose("s", text(1)) == ["b", "a"]


def test_where_a_request_went_in_the_end_is_where_it_counts() -> None:
    """Ray asks the next replica where the first refuses."""
    fleet = fleet_of("a", "b")
    prompt = text(1)
    fleet.opened("s")
    first, second = fleet.choose("s", prompt)
    fleet.went("s", second, prompt)
    assert fleet.replica_of("s") == second
    assert (fleet.num_open(first), fleet.num_open(second)) == (0, 1)
    fleet.ended("s")
    assert fleet.num_open(second) == 0


def test_a_replica_that_is_gone_is_not_chosen_and_what_it_has_counts_until_it_ends() -> None:
    fleet = fleet_of("a", "b")
    sender = Sender(fleet)
    home = sender.send(text(1))
    stays = "b" if home == "a" else "a"
    fleet.update({stays: None})
    assert sender.send(text(1)) == stays
    assert fleet.num_open(home) == 1
    fleet.ended("s1")
    assert fleet.num_open(home) == 0


def test_a_new_replica_takes_its_share() -> None:
    fleet = fleet_of("a")
    sender = Sender(fleet)
    for number in range(3):
        sender.send(text(number))
    fleet.update({"a": None, "b": None})
    assert sender.send(text(9)) == "b"


def test_nobody_there_is_no_choice() -> None:
    fleet = Fleet()
    fleet.opened("s")
    assert fleet.choose("s", text(1)) == []


def test_a_sequence_whose_caller_left_is_not_counted() -> None:
    fleet = fleet_of("a")
    fleet.opened("s")
    fleet.ended("s")
    fleet.choose("s", text(1))
    assert fleet.num_open("a") == 0


def test_who_listens_hears_of_changes() -> None:
    fleet, heard = Fleet(), []
    fleet.on_change(lambda: heard.append(set(fleet.reports)))
    fleet.update({"a": None})
    fleet.update({"a": None, "b": None})
    assert heard == [{"a"}, {"a", "b"}]


def test_a_lost_replica_is_gone_once_and_who_listens_hears_of_it() -> None:
    fleet, heard = fleet_of("a", "b"), []
    fleet.on_change(lambda: heard.append(set(fleet.reports)))
    fleet.lost("a")
    fleet.lost("a")
    fleet.lost("unknown")
    assert heard == [{"b"}]
    fleet.opened("s")
    assert fleet.choose("s", text(1)) == ["b"]


def test_sequences_are_stranded_where_nobody_has_them_and_nobody_is_left() -> None:
    fleet = fleet_of("a")
    for name in ("unsent", "sent", "taken"):
        fleet.opened(name)
    for name in ("sent", "taken"):
        fleet.choose(name, text(1))
    fleet.went("taken", "a", text(1))
    assert fleet.stranded == []
    fleet.lost("a")
    assert fleet.stranded == ["unsent", "sent"]
    fleet.ended("unsent")
    fleet.update({"b": None})
    assert fleet.stranded == []
