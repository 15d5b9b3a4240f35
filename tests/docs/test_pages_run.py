"""Every block in the pages runs, and prints what the page shows."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.docs.pages import PAGES, ROOT, Block, Differs, Session, blocks_of, clean_environment, compare, compile_block
from tests.environment import is_setting

BLOCKS = {str(page.relative_to(ROOT)): blocks_of(page.read_text()) for page in PAGES}


def runs(block: Block) -> bool:
    return block.kind in ("python", "console") and "compiled" not in block.info


def having(*, kafka: bool) -> list[str]:
    return [page for page, blocks in BLOCKS.items() if any(runs(block) and block.needs_kafka is kafka for block in blocks)]


def run_page(page: str, folder: Path, environ: dict[str, str], *, kafka: bool) -> None:
    session = Session(page, folder, environ)
    try:
        for block in BLOCKS[page]:
            if runs(block) and block.needs_kafka is kafka:
                session.run(block)
    finally:
        session.close()


def settle_in(folder: Path, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    for name in filter(is_setting, environ):
        monkeypatch.setenv(name, environ[name])


@pytest.mark.slow
@pytest.mark.parametrize("page", having(kafka=False))
def test_page_runs_on_the_embedded_log(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environ = clean_environment()
    settle_in(tmp_path, environ, monkeypatch)
    run_page(page, tmp_path, environ, kafka=False)


@pytest.mark.server
@pytest.mark.parametrize("page", having(kafka=True))
def test_page_runs_on_kafka(page: str, empty_kafka: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environ = clean_environment() | {"KAFKA_BOOTSTRAP_SERVERS": empty_kafka}
    settle_in(tmp_path, environ, monkeypatch)
    run_page(page, tmp_path, environ, kafka=True)


@pytest.mark.parametrize("page", BLOCKS)
def test_every_python_block_compiles(page: str) -> None:
    for block in BLOCKS[page]:
        if block.kind == "python":
            compile_block(f"{page}:{block.line}", block.body)


def test_every_fence_says_what_it_is() -> None:
    known = {"python", "console", "text", "json", "sh", "toml", "ini", "properties", "yaml"}
    assert [(page, block.line) for page, blocks in BLOCKS.items() for block in blocks if block.kind not in known] == []


# That the checks above can fail.


def session(tmp_path: Path) -> Session:
    return Session("page", tmp_path, clean_environment())


def run_text(text: str, tmp_path: Path) -> None:
    running = session(tmp_path)
    try:
        for block in blocks_of(text):
            running.run(block)
    finally:
        running.close()


def test_a_block_that_raises_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        run_text("```python\n1 / 0\n```\n", tmp_path)


def test_other_output_than_shown_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(Differs):
        run_text("```python\nprint(1)\n```\n\n```text\n2\n```\n", tmp_path)


def test_an_awaiting_block_is_awaited(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        run_text("```python\nimport asyncio\nawait asyncio.to_thread(lambda: 1 / 0)\n```\n", tmp_path)


def test_names_live_on_in_the_next_block_of_a_page(tmp_path: Path) -> None:
    run_text("```python\na = 1\n```\n\n```python\nprint(a)\n```\n\n```text\n1\n```\n", tmp_path)


def test_a_failing_command_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(Differs, match="exit code 3"):
        run_text("```console\n$ exit 3\n```\n", tmp_path)


def test_other_output_of_a_command_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(Differs):
        run_text("```console\n$ echo one\ntwo\n```\n", tmp_path)


@pytest.mark.parametrize(("shown", "printed"), [("a … z", "a b c z"), ("…", ""), ("a\n…\nz", "a\nb\nz")])
def test_an_ellipsis_stands_for_anything(shown: str, printed: str) -> None:
    compare("here", shown, printed)


def test_an_ellipsis_does_not_hide_the_rest() -> None:
    with pytest.raises(Differs):
        compare("here", "a … z", "a b c y")
