"""The page in a real browser, by keyboard alone, with a server that is killed meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from chromium import Browser, find_chromium
from chromium import Page as Tab
from drive import KINDS, Drive, kind_of
from label_page import LabelPage

from palm_cache.extraction.encoders.registry import load_text_tower
from palm_cache.label.labels import Labelled, read_labels
from palm_cache.label.server import HOST, listen, make_app, make_server
from palm_cache.label.session import Session
from palm_cache.store.features import FeatureStore

pytestmark = pytest.mark.slow

KEYS = {
    **{" ": 32, "Enter": 13, "Escape": 27, "Backspace": 8, "Delete": 46, "Tab": 9},
    **{"ArrowLeft": 37, "ArrowRight": 39},
}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = find_chromium()
    if program is None:
        pytest.skip("no Chromium here")
    opened = Browser(program, tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@contextmanager
def serving(drive: Drive, file: Path, **options: Any) -> Iterator[str]:
    """Serve the page from a thread of this process; give its address."""
    store = FeatureStore(drive.store)
    with (
        listen(0) as listener,
        Session(
            store,
            file,
            load_tower=lambda: load_text_tower(store.header, device="cpu", tokenizer=""),
            **options,
        ) as session,
    ):
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
    with serving(made_drive, file, classes=["low", "middle"]) as address:
        page = Keyboard(browser.open(address, width, height))
        page.until("player.currentTime > 0 && byId('picture').naturalWidth === 1024")
        first = page.text("#path")
        page.press("+")
        page.type("high")
        page.press("Enter")  # a new class labels the row it was named for
        assert classes_of(file) == [(first, "high")]
        page.press("Backspace")
        assert classes_of(file) == []
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
        guessed = page.text("#path"), page.see("queue[place].guesses[0][0]")
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
