"""The page in a real browser, by keyboard alone, with a server that is killed meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from chromium import Browser
from chromium import Page as Tab
from drive import KINDS, Drive, kind_of
from label_client import open_session
from label_page import LabelPage

from palm_cache.label import fitting
from palm_cache.label.labels import Labelled, read_labels
from palm_cache.label.server import HOST, listen, make_app, make_server

pytestmark = pytest.mark.slow

KEYS = {
    **{" ": 32, "Enter": 13, "Escape": 27, "Backspace": 8, "Delete": 46, "Tab": 9},
    **{"ArrowLeft": 37, "ArrowRight": 39},
}


@contextmanager
def serving(drive: Drive, file: Path, **options: Any) -> Iterator[str]:
    """Serve the page from a thread of this process; give its address."""
    with listen(0) as listener, open_session(drive, file, **options) as session:
        port = listener.getsockname()[1]
        server = make_server(make_app(session, "token", port))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://{HOST}:{port}/token/"
        finally:
            server.should_exit = True
            thread.join()


class Keyboard:
    """A page that is worked by its keys."""

    def __init__(self, tab: Tab) -> None:
        self.tab = tab
        self.settle()

    def settle(self) -> None:
        """Wait until everything that was asked for has been answered and fitted."""
        self.tab.run(
            "do { await turn; await new Promise((done) => setTimeout(done, 5)); }"
            " while (state?.fitting || watching);"
        )

    def press(self, *keys: str) -> None:
        for key in keys:
            number = KEYS[key] if key in KEYS else ord(key.upper()) if key.isalnum() else 0
            code = {"windowsVirtualKeyCode": number}
            text = {"text": "\r" if key == "Enter" else key} if len(key) == 1 or key == "Enter" else {}
            self.tab.command("Input.dispatchKeyEvent", {"type": "keyDown", "key": key, **code, **text})
            self.tab.command("Input.dispatchKeyEvent", {"type": "keyUp", "key": key, **code})
            self.settle()

    def type(self, text: str) -> None:
        self.tab.command("Input.insertText", {"text": text})

    def see(self, expression: str) -> Any:
        return self.tab.run(f"return {expression};")

    def until(self, expression: str) -> None:
        """Wait for something to come true."""
        self.tab.run(f"while (!({expression})) await new Promise((done) => setTimeout(done, 5));")

    def text(self, selector: str) -> str:
        told: str = self.see(f"document.querySelector({selector!r}).innerText.trim()")
        return told


def classes_of(file: Path) -> list[tuple[str, str]]:
    labelled = Labelled(read_labels(file)[0])
    return [(path, name) for (path, _, _), name in labelled.classes.items()]


@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)])
def test_a_drive_is_labelled_by_keyboard_alone(
    browser: Browser, made_drive: Drive, tmp_path: Path, width: int, height: int
) -> None:
    file = tmp_path / "labels.csv"
    with serving(made_drive, file, classes=KINDS) as address:
        page = Keyboard(browser.open(address, width, height))
        page.until("player.currentTime > 0 && byId('picture').naturalWidth === 1024")
        assert page.see("scrollY") == 0  # the list below may be out of sight
        first = page.text("#path")
        page.press("+")
        page.type("owl")
        page.press("Enter")  # a new class labels the row it was named for
        assert classes_of(file) == [(first, "owl")]
        page.press("Backspace")
        assert classes_of(file) == []
        assert page.see("state.classes.map(({ name }) => name)") == list(KINDS)
        assert page.text("#path") == first
        for _ in range(12):
            page.press(str(1 + KINDS.index(kind_of(page.text("#path")))))
        given = classes_of(file)
        assert len(given) == 12
        assert all(name == kind_of(path) for path, name in given)
        assert page.text("#labelled") == "12"
        assert "on the 12 labelled rows" in page.text("#verdict")
        assert page.see("byId('growth').querySelectorAll('circle').length") == 2

        passed = page.see("queue[place].row")
        page.press("ArrowRight")
        assert page.see("queue[place].row") != passed
        page.press("ArrowLeft")
        assert page.see("queue[place].row") == passed
        guessed = page.text("#path"), page.see("queue[place].guesses[0]")
        page.press("Enter")
        assert classes_of(file) == [*given, guessed]
        page.press("/")
        page.type("a high tone")
        page.press("Enter")
        assert page.text("#source") == "Nearest to “a high tone”, not labelled yet."
        page.press(".")
        assert page.text("#source").startswith("Like ")
        page.until("!player.paused")
        page.press(" ")
        assert page.see("player.paused") is True
        assert page.see("[document.documentElement.scrollWidth <= innerWidth, queue.length]") == [True, 10]
        assert page.tab.console() == []


def test_no_share_is_told_that_nothing_vouches_for(
    browser: Browser, made_drive: Drive, tmp_path: Path
) -> None:
    """Names alone can give a class all of the probability, before a single label."""
    with serving(made_drive, tmp_path / "labels.csv", classes=KINDS) as address:
        page = Keyboard(browser.open(address, 1280, 900))
        assert page.see("queue[place].guesses.length") == 3
        assert page.text("#guesses").startswith("The head says")
        assert "%" not in page.text("main")


def test_a_tab_that_is_looked_at_again_shows_what_was_labelled_in_another(
    browser: Browser, made_drive: Drive, tmp_path: Path
) -> None:
    with serving(made_drive, tmp_path / "labels.csv", classes=KINDS) as address:
        first, second = (Keyboard(browser.open(address, 1280, 900)) for _ in range(2))
        second.until("!byId('picture').hidden")
        assert first.text("#path") == second.text("#path")
        second.press("2")
        assert first.text("#labelled") == "0"
        first.tab.command("Page.bringToFront")
        first.until("state.labelled === 1")
        first.settle()
        assert first.text("#labelled") == "1"
        assert first.text("#queue [aria-current] .given") == "middle"
        for button in ("#queue [data-place='3']", "#classes [data-name='high']"):
            first.tab.run(f'document.querySelector("{button}").focus(); await refresh();')
            assert first.see(f'document.activeElement.matches("{button}")') is True


def test_a_power_cut_loses_no_label(browser: Browser, made_drive: Drive, tmp_path: Path) -> None:
    words = (str(made_drive.store), "--labels", "labels.csv", "--classes", "low,middle,high")
    file = tmp_path / "labels.csv"
    with LabelPage(*words, folder=tmp_path) as served:
        page = Keyboard(browser.open(served.address, 1280, 900))
        page.press("1", "2", "3")
        given = classes_of(file)
        assert [name for _, name in given] == ["low", "middle", "high"]
        served.kill()
        page.press("1")
        assert "The server does not answer" in page.text("#notice")
        assert classes_of(file) == given
    with LabelPage(*words, folder=tmp_path) as served:
        page = Keyboard(browser.open(served.address, 1280, 900))
        assert page.text("#labelled") == "3"
        page.press("Backspace")
        assert classes_of(file) == given[:2]
        told = served.end()
    assert "2 rows labelled in labels.csv" in told
    assert f"palm-cache extract --dataset labels.csv --root {made_drive.recordings}" in told


def test_keys_that_are_typed_into_a_field_or_belong_to_a_button_label_nothing(
    browser: Browser, made_drive: Drive, tmp_path: Path
) -> None:
    file = tmp_path / "labels.csv"
    with serving(made_drive, file, classes=["low", "high"]) as address:
        page = Keyboard(browser.open(address, 1280, 900))
        page.press("/", "1", "2")
        assert page.see("byId('text').value") == "12"
        page.press("Escape")
        page.tab.run("byId('play').focus();")
        page.press("Enter")
        assert not file.exists()
        page.tab.run("document.activeElement.blur();")
        page.press("Delete")  # of a row without a label
        assert not file.exists()
        page.press("1", "Backspace")
        assert classes_of(file) == []
        assert page.tab.console() == []


def test_a_row_whose_sound_is_gone_says_so(browser: Browser, made_drive: Drive, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with serving(made_drive, tmp_path / "labels.csv", audio=tmp_path / "empty") as address:
        page = Keyboard(browser.open(address, 1280, 900))
        page.until("!byId('gone').hidden")
        assert page.text("#gone").startswith("its sound is gone: ")
        assert page.see("byId('picture').hidden") is True


def test_a_row_that_reaches_the_end_of_its_file_says_where_that_is(
    browser: Browser, made_drive: Drive, tmp_path: Path
) -> None:
    with serving(made_drive, tmp_path / "labels.csv") as address:
        page = Keyboard(browser.open(address, 1280, 900))
        page.tab.run("await change({ by: 'these', rows: 2 });")
        page.until("!byId('picture').hidden")
        assert page.text("#stretch") == "0:01.5 \u2013 0:02.5, 1.0 s"


def test_rows_can_be_reviewed_and_put_right(browser: Browser, made_drive: Drive, tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    with serving(made_drive, file, classes=["low", "high"]) as address:
        page = Keyboard(browser.open(address, 1280, 900))
        page.press("1", "1", "2")
        page.tab.run("byId('by').value = 'labelled:low'; byId('by').dispatchEvent(new Event('change'));")
        page.settle()
        assert page.text("#source") == "Labelled as low, the last first."
        assert page.see("queue.map((row) => row.class_name)") == ["low", "low"]
        page.press("2", "Delete")
        assert [name for _, name in classes_of(file)] == ["high", "high"]


def test_a_class_of_thousands_of_rows_can_be_gone_through(
    browser: Browser, made_drive: Drive, tmp_path: Path
) -> None:
    """All numbers of 20,000 rows are more than a request may be long."""
    file = tmp_path / "labels.csv"
    with serving(made_drive, file, classes=["low", "high"]) as address:
        page = Keyboard(browser.open(address, 1280, 900))
        page.press("1")
        page.tab.run(
            "await change({ by: 'labelled', class: 'low' });"
            "queue = Array.from({ length: 20000 }, () => ({ ...queue[0] }));"
            "choose(15000); await refresh();"
        )
        page.press("ArrowRight")
        assert page.see("[queue.length, place, byId('notice').hidden]") == [20_000, 15_001, True]
        assert page.see("byId('queue').children.length") == 200
        assert page.text("#queue [aria-current] .given") == "low"
        assert page.see("document.querySelector('#queue [aria-current]').dataset.place") == "15001"
        page.press("ArrowLeft")
        assert page.see("place") == 15_000
        assert page.tab.console() == []


def test_a_key_is_for_the_row_that_is_seen_when_it_is_pressed(
    browser: Browser, made_drive: Drive, tmp_path: Path
) -> None:
    """Whoever strikes twice puts the first right; nobody has heard the row behind it yet."""
    file = tmp_path / "labels.csv"
    with serving(made_drive, file, classes=["low", "high"]) as address:
        page = Keyboard(browser.open(address, 1280, 900))
        seen = page.text("#path"), page.see("queue[place].row")
        page.tab.run(
            "for (const key of ['1', '2']) document.dispatchEvent(new KeyboardEvent('keydown', { key }));"
        )
        page.settle()
        assert classes_of(file) == [(seen[0], "high")]
        assert len(read_labels(file)[0]) == 2
        assert page.see("queue[place].row") != seen[1]
        assert page.see("queue[place].class_name") is None


def test_a_window_that_is_gone_back_to_shows_what_another_was_told(
    browser: Browser, made_drive: Drive, tmp_path: Path
) -> None:
    file = tmp_path / "labels.csv"
    with serving(made_drive, file, classes=["low", "high"]) as address:
        first, second = (Keyboard(browser.open(address, 1280, 900)) for _ in range(2))
        second.until("!byId('picture').hidden")
        seen = second.text("#path"), second.text("#stretch")
        assert first.text("#path") == seen[0]
        first.press("2")
        assert second.text("#labelled") == "0"
        second.tab.run("dispatchEvent(new Event('focus'));")
        second.settle()
        assert second.text("#labelled") == "1"
        assert (second.text("#path"), second.text("#stretch")) == seen
        assert second.text("#classes [aria-pressed=true] span") == "high"
        assert second.text("#queue [aria-current] .given") == "high"


def test_undo_shows_first_what_another_window_was_told(
    browser: Browser, made_drive: Drive, tmp_path: Path
) -> None:
    file = tmp_path / "labels.csv"
    with serving(made_drive, file, classes=["low", "high"]) as address:
        first, second = (Keyboard(browser.open(address, 1280, 900)) for _ in range(2))
        first.press("1")
        second.press("ArrowRight", "2")
        given = classes_of(file)
        first.press("Backspace")
        assert first.text("#notice").startswith("Not kept: somebody else has labelled meanwhile")
        assert (classes_of(file), first.text("#labelled")) == (given, "2")
        first.press("Backspace")
        assert (classes_of(file), first.see("byId('notice').hidden")) == (given[:1], True)


def test_a_tab_that_is_left_from_an_earlier_start_says_so(
    browser: Browser, made_drive: Drive, tmp_path: Path
) -> None:
    with listen(0) as listener:
        port = listener.getsockname()[1]
    words = (str(made_drive.store), "--classes", "low,high", "--port", str(port))
    with LabelPage(*words, folder=tmp_path) as served:
        page = Keyboard(browser.open(served.address, 1280, 900))
        served.kill()
    with LabelPage(*words, folder=tmp_path):
        page.press("1")
    assert page.text("#notice").startswith("This page is an old one, and nothing more is kept from it")
    assert not (tmp_path / "labels.csv").exists()


def test_what_goes_wrong_is_told_on_the_page(
    browser: Browser, made_drive: Drive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "labels.csv"
    with serving(made_drive, file, classes=["low", "high"]) as address:
        page = Keyboard(browser.open(address, 1280, 900))
        page.press("1")
        with monkeypatch.context() as patch:
            patch.setattr(fitting, "held_out", lambda *_: 1 / 0)
            page.press("2")
        assert "ZeroDivisionError: division by zero" in page.text("#trouble")
        page.press("1")
        assert page.see("byId('trouble').hidden") is True
        with file.open("a") as opened:
            opened.write("broken\n")
        page.press("2")
        assert page.text("#problems summary") == "labels.csv has an oddity; everything else in it counts"
        file.rename(tmp_path / "moved.csv")
        page.press("1")
        assert page.text("#notice").startswith(f"Not kept: {file}: is gone or empty now")
        page.press("+")
        page.type("a name that is long to type")
        page.press("Enter")
        assert page.see("byId('name').value") == "a name that is long to type"
        (tmp_path / "moved.csv").rename(file)
        page.press("+")
        assert page.see("String(getSelection())") == "a name that is long to type"
        page.press("Enter")
        assert page.see("[byId('name').value, byId('notice').hidden]") == ["", True]
        assert classes_of(file)[-1][1] == "a name that is long to type"
        assert len(classes_of(file)) == 5


def test_names_of_any_kind_are_classes(browser: Browser, made_drive: Drive, tmp_path: Path) -> None:
    odd = ["<img src=x onerror=alert(1)>", 'a "quoted", name', "🐕", "كلب"]
    file = tmp_path / "labels.csv"
    with serving(made_drive, file) as address:
        page = Keyboard(browser.open(address, 390, 844))
        for name in odd:
            page.press("+")
            page.type(name)
            page.press("Enter")
        assert [name for _, name in classes_of(file)] == odd
        page.press("4")
        assert classes_of(file)[-1][1] == "كلب"
        assert page.see("document.querySelectorAll('img').length") == 1
        page.tab.run("byId('by').value = 'labelled:كلب'; byId('by').dispatchEvent(new Event('change'));")
        page.settle()
        assert page.text("#source") == "Labelled as كلب, the last first."
        assert page.tab.console() == []
    with serving(made_drive, file, classes=[*odd, *(f"kind {n}" for n in range(40))]) as address:
        page = Keyboard(browser.open(address, 390, 844))
        assert page.see("[...keyOf.values()].length") == page.see("new Set(keyOf.values()).size") == 36
        assert page.see("document.documentElement.scrollWidth <= innerWidth") is True


def test_everything_that_can_be_used_has_a_name_and_is_reached_with_tab(
    browser: Browser, made_drive: Drive, tmp_path: Path
) -> None:
    with serving(made_drive, tmp_path / "labels.csv", classes=["low", "high"]) as address:
        page = Keyboard(browser.open(address, 1280, 900))
        page.tab.command("Accessibility.enable")
        nodes = page.tab.command("Accessibility.getFullAXTree")["nodes"]
        usable = [
            node
            for node in nodes
            if node.get("role", {}).get("value") in ("button", "textbox", "searchbox", "combobox", "Audio")
            and not node["ignored"]
        ]
        assert len(usable) > 15
        assert [node for node in usable if not node["name"]["value"]] == []
        reached = set()
        for _ in range(40):
            page.press("Tab")
            reached.add(page.see("document.activeElement.id || document.activeElement.dataset.name"))
        assert {"low", "high", "name", "play", "next", "undo", "alike", "by", "text", "player"} - reached == {
            "undo"
        }
