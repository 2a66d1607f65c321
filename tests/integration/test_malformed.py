"""Malformed input as people give it: files, options, data, logs, code, studies and commands, each with a clear refusal.

Each line is what was typed, and a part of what must be answered. Where nothing was wrong the answer is a table.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytestmark = (
    pytest.mark.nightly
)  # some 150 commands; tests/integration/test_bad_input.py has one of each kind by default

Call = Callable[..., tuple[int, str, str]]
OK = """
name: ok
source: digits
scenario: {name: class-incremental, experiences: 2}
schedule: {name: periodic, every: 1, samples: 5}
model: {name: mlp, hidden: [8]}
training: {epochs: 1, lr: 0.05}
strategies: {a: {learner: replay, unlearner: {name: finetune, epochs: 1}}}
references: {kinds: []}
"""
STUDY = """
name: s
claim: c
base: ok.yaml
seeds: 1
"""


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path / "cache"))
    Path("ok.yaml").write_text(OK, encoding="utf-8")


def refusal(call: Call, *arguments: str) -> str:
    """Return what a command says that is refused: it ends with 2, without a traceback, and before a folder is made."""
    ended, out, err = call(*arguments)
    assert (ended, out) == (2, ""), err
    assert "Traceback" not in err
    assert not list(Path().glob("runs/*"))
    return " ".join(err.split())


CONFIGURATIONS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "it is empty"),
    "comment": (b"# nothing\n", "it is empty"),
    "list": (b"- a\n- b\n", "it holds a list"),
    "scalar": (b"hello\n", "it holds a str"),
    "twice": (b"name: a\nseed: 1\nname: b\n", "the key 'name' is there twice, in lines 1 and 3"),
    "deep-twice": (b"training: {lr: 1, lr: 2}\n", "the key 'lr' is there twice, in lines 1 and 1"),
    "tab": (b"training:\n\tlr: 1\n", "is not valid YAML"),
    "cycle": (b"a: &a [*a]\n", "is not valid YAML"),
    "bomb": (b"a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n", "a: there is no such key"),
    "python-tag": (b"name: !!python/object/apply:os.getcwd []\n", "is not valid YAML"),
    "latin-1": ("name: k\xe4se\n".encode("latin-1"), "is not UTF-8 text"),
    "utf-16": ("name: a\n".encode("utf-16"), "is not UTF-8 text"),
    "binary": (bytes(range(256)), "is not UTF-8 text"),
    "two-documents": (b"name: a\n---\nname: b\n", "is not valid YAML"),
    "nul": (b'name: "a\\0b"\n', "name: 'a\\x00b' is not valid"),
    "number-as-key": (b"1: 2\n", "Error: the key 1 is not text. Write it in quotes."),
    "null-as-key": (b"~: 2\n", "Error: the key null is not text. Write it in quotes."),
    "norway": (b"strategies: {no: {learner: naive}}\n", "strategies: the key false is not text. Write it in quotes."),
    "date": (b"name: 2026-01-01\n", "name: datetime.date(2026, 1, 1) is not valid: it must be text."),
}
ROWS = "".join(f"{i}.5,{i % 7},{'uvw'[i % 3]}\n" for i in range(60))
TABLES: dict[str, tuple[str | bytes, str]] = {
    "no label": ("a,b,c\n" + ROWS, "need exactly one of 'label' and 'target'"),
    "text": ("a,b,label\nx,1,u\n" + ROWS, "line 2, column 'a': 'x' is not a finite number"),
    "ragged": ("a,b,label\n1,2,u\n1,u\n" + ROWS, "line 3: has 2 values; the header has 3 columns"),
    "only a header": ("a,b,label\n", "has no rows"),
    "empty": ("", "has no rows"),
    "missing": ("a,b,label\n1,,u\n" + ROWS, "line 2, column 'b': '' is not a finite number"),
    "missing label": ("a,b,label\n1,2,\n" + ROWS, "line 2, column 'label'"),
    "semicolons": (("a,b,label\n" + ROWS).replace(",", ";"), "Columns are separated by commas, not by ';'."),
    "column twice": ("a,a,label\n" + ROWS, "a column occurs twice"),
    "capital": ("a,b,Label\n" + ROWS, "Write 'Label' in small letters."),
    "unknown split": ("a,split,label\n1,train,u\n1,val,u\n", "line 3, column 'split': 'val' is not allowed"),
    "no test": ("a,split,label\n1,train,u\n2,train,v\n", "no test sample is left"),
    "another encoding": ("a,b,label\n1,2,k\xe4se\n".encode("latin-1"), "cannot be read as UTF-8"),
    "decimal comma": ('a,b,label\n"0,5",1,u\n' + ROWS, "line 2, column 'a': '0,5' is not a finite number"),
}
LOGS = {
    "columns": ("who,when\na,1\n", "", "has the columns ['who', 'when']"),
    "no dates for the experiences": (
        "user,date\nuser-1,2026-02-01\n",
        "2026-01-31",
        "schedule.learned: 1 dates are given",
    ),
    "nobody": ("user,after\nnobody,1\n", "", "there is no user called 'nobody'"),
    "not in order": ("user,date\nuser-1,2026-04-01\n", "2026-03-31, 2026-02-28", "schedule.learned: 2 dates are given"),
    "no date": ("user,date\nuser-1,soon\n", "2026-01-31, 2026-02-28", "'soon' in the column 'date' is not a date"),
    "too early": ("user,after\nuser-1,0\n", "", "a request must come after 1 to 2 of them"),
}
CODE = {
    "syntax": ("def (:\n", "cannot be imported: SyntaxError"),
    "no options": ('"""Nothing."""\n', "defines no 'Config'"),
    "raises": ('"""Raises."""\nraise RuntimeError("boom")\n', "line 2, cannot be imported: RuntimeError: boom"),
}
RECORDED = "--schedule={{name: recorded, path: log.csv, learned: [{}]}}"
FILES: list[tuple[str, str, list[str], str | bytes, str]] = [  # file, what is wrong, options, content, answer
    *(("ok.yaml", name, [], *given) for name, given in CONFIGURATIONS.items()),
    *(("bad.csv", name, ["--source={name: arrays, path: bad.csv}"], *given) for name, given in TABLES.items()),
    *(("log.csv", name, [RECORDED.format(learned)], log, says) for name, (log, learned, says) in LOGS.items()),
    *(("mine.py", name, ["--strategies.a.unlearner=./mine.py"], *given) for name, given in CODE.items()),
]


@pytest.mark.parametrize(
    ("file", "options", "content", "says"),
    [pytest.param(file, *rest, id=f"{file}-{name}") for file, name, *rest in FILES],
)
def test_a_file(file: str, options: list[str], content: str | bytes, says: str, call: Call) -> None:
    Path(file).write_bytes(content.encode() if isinstance(content, str) else content)
    assert says in refusal(call, "run", "ok.yaml", *options)


def test_a_byte_order_mark_is_no_mistake(call: Call) -> None:
    Path("bom.yaml").write_bytes(b"\xef\xbb\xbf" + OK.encode())
    assert call("preview", "bom.yaml")[0] == 0


EXPLICIT = "schedule={{name: explicit, requests: [{}]}}"
OPTIONS = [
    ("training.lr=nan", "training.lr: 'nan' is not valid: it must be a finite number."),
    ("training.lr=inf", "training.lr: 'inf' is not valid: it must be a finite number."),
    ("training.lr=-1", "training.lr: -1 is not valid: it must be greater than 0."),
    ("training.lr=1e400", "training.lr: '1e400' is not valid: it must be a finite number."),
    ("training.lr=abc", "training.lr: 'abc' is not valid: it must be a number."),
    ("training.epochs=1.5", "training.epochs: 1.5 is not valid: it must be an integer."),
    ("training.epochs=true", "training.epochs: true is not valid"),
    ("seed=-1", "seed: -1 is not valid: it must be 0 or more."),
    ("seed=2147483648", "seed: 2147483648 is not valid: it must be less than 2147483648."),
    ("seed=1e3", "seed: '1e3' is not valid: it must be an integer."),
    ("seed=abc", "seed: 'abc' is not valid: it must be an integer."),
    ("seed", "--set 'seed' must look like training.lr=0.1."),
    ("=3", "--set '=3' must look like training.lr=0.1."),
    ("training=5", "training: 5 is not valid: it must be a mapping"),
    ("trainng.lr=0.1", "trainng: there is no such key. Did you mean 'training'?"),
    ("training.lr.x=1", "'lr' has no keys of its own"),
    ("scenario.experiences=11", "11 is more than the 10 classes of 'digits'."),
    ("scenario.experiences=0", "scenario.experiences: 0 is not valid: it must be 1 or more."),
    ("name=../../../evil", "name: '../../../evil' is not valid"),
    ("name=/etc/x", "name: '/etc/x' is not valid"),
    ("name=", "name: null is not valid: it must be text."),
    ("name=ünïcødé-名", "name: 'ünïcødé-名' is not valid"),
    ("strategies={}", "strategies: {} is not valid"),
    ("strategies.a.learner=[replay,replay]", "a plugin is named twice in ['replay', 'replay']."),
    ("strategies.a.unlearner=salnu", "'salnu' is not known. Did you mean 'salun'?"),
    ("strategies.a.isolated=sisa", "isolated strategies bring their own learning and forgetting"),
    ("strategies.a.unlearner=amnesiac", "amnesiac reads what the plugin 'update-log' notes down"),
    (
        "strategies.a={unlearner: {name: finetune, retained: memory}}",
        "'memory' is what the learner keeps, and naive keeps",
    ),
    ("strategies.a.unlearner={name: finetune, lrr: 1}", "unlearner.lrr: there is no such key. Did you mean 'lr'?"),
    ('strategies={"../x": {learner: replay, unlearner: none}}', "the name '../x' may only have letters"),
    ("strategies={a/b: {learner: replay, unlearner: none}}", "the name 'a/b' may only have letters"),
    ("model=resnet-18", "model: resnet-18 needs images [C, H, W] of at least 8x8"),
    ("model=lenet", "model: lenet needs images [C, H, W] of at least 20x20"),
    ("model=tiny-llama", "model: tiny-llama reads text"),
    ("model.hidden=[0]", "model.hidden.0: 0 is not valid: it must be 1 or more."),
    ("device=tpu", "device: 'tpu' is not a device."),
    ("threads=0", "threads: 0 is not valid: it must be 1 or more."),
    ("threads=100000", "threads: 100000 is not valid"),
    ("schedule.samples=100000", "A request wants 100000 sample(s) to delete"),
    (EXPLICIT.format("{after: 2, scope: class, keys: [77]}"), "there is no class called 77."),
    (EXPLICIT.format("{after: 1, scope: class, keys: [9]}"), "class 9 after 1 experiences: its data is never learned"),
    (EXPLICIT.format("{after: 9, scope: class, keys: [1]}"), "9 is past the last of 2 experiences."),
    (
        EXPLICIT.format("{after: 1, scope: class, keys: [0]}, {after: 2, scope: class, keys: [0]}"),
        "class 0 after 2 experiences: its data is already deleted",
    ),
    (
        EXPLICIT.format("{after: 2, scope: class, keys: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]}"),
        "finetune cannot serve request-0, which deletes all that was learned",
    ),
    ("model.hidden=[100000000000]", "model: mlp does not fit into memory"),
    ("strategies.a.unlearner=./nosuch.py", "'./nosuch.py' does not exist"),
]


@pytest.mark.parametrize(("option", "says"), OPTIONS, ids=[o[:50] for o, _ in OPTIONS])
def test_an_option(option: str, says: str, call: Call) -> None:
    assert says in refusal(call, "run", "ok.yaml", "--set", option)


def test_a_name_that_no_folder_can_have(call: Call) -> None:
    ended, out, err = call("run", "ok.yaml", f"--name={'A' * 300}")
    assert (ended, out) == (2, "")
    assert "File name too long. Choose a shorter `name`." in err
    assert not list(Path("runs").glob("*/*"))


X, Y = np.random.default_rng(0).normal(size=(200, 4)), np.arange(200) % 4
ARRAYS: dict[str, tuple[dict[str, np.ndarray], str]] = {
    "nan": ({"x": np.where(np.arange(800).reshape(200, 4) == 0, np.nan, X), "y": Y}, "row 0: x is not finite"),
    "infinity": ({"x": np.where(np.arange(800).reshape(200, 4) == 4, np.inf, X), "y": Y}, "row 1: x is not finite"),
    "no labels": ({"x": X}, "the array 'y' is missing"),
    "too few labels": ({"x": X, "y": Y[:199]}, "y has the shape (199,); x has 200 rows"),
    "one class": ({"x": X, "y": Y * 0}, "every sample is of class 0"),
    "one sample a class": ({"x": X[:2], "y": Y[:2]}, "no test sample is left"),
    "half classes": ({"x": X, "y": Y + 0.5}, "row 0: 0.5 is no class. Did you mean `target: regression`?"),
    "labels not finite": ({"x": X, "y": np.where(Y == 3, np.nan, Y)}, "row 3: nan is no class"),
    "a vector": ({"x": X[:, 0], "y": Y}, "x is float64 (200,)"),
    "no rows": ({"x": X[:0], "y": Y[:0]}, "x is float64 (0, 4)"),
    "complex numbers": ({"x": X.astype(complex), "y": Y}, "x is complex128"),
    "too few users": ({"x": X, "y": Y, "user": Y[:150]}, "user has the shape (150,)"),
    "too large for float32": ({"x": X * 1e300, "y": Y}, "x is too large for float32"),
    "a strange array": ({"x": X, "y": Y, "labels": Y}, "the array 'labels' means nothing"),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays(name: str, call: Call) -> None:
    content, says = ARRAYS[name]
    np.savez("bad.npz", **content)
    assert says in refusal(call, "run", "ok.yaml", "--source={name: arrays, path: bad.npz}")


def test_negative_labels_are_labels(call: Call) -> None:
    np.savez("good.npz", x=X, y=Y - 2)
    assert call("preview", "ok.yaml", "--source={name: arrays, path: good.npz}")[0] == 0


NO_ARRAYS = {
    "objects.npz": "objects.npz: cannot be read",
    "cut.npz": "cut.npz: cannot be read (it is no zip file",
    "text.npz": "text.npz: cannot be read (it is no zip file",
    "zip.npz": "zip.npz",
    "nosuch.npz": "'nosuch.npz' does not exist",
    "/etc/passwd": "is neither an .npz file",
}


@pytest.mark.parametrize("name", NO_ARRAYS)
def test_files_that_are_no_arrays(name: str, call: Call) -> None:
    np.savez("objects.npz", x=X, y=np.array([object()] * 200))
    Path("cut.npz").write_bytes(Path("objects.npz").read_bytes()[:300])
    Path("text.npz").write_text("this is text")
    with zipfile.ZipFile("zip.npz", "w") as file:
        file.writestr("hello.txt", "hello")
    assert NO_ARRAYS[name] in refusal(call, "run", "ok.yaml", f"--source={{name: arrays, path: {name}}}")


FOLDERS = {
    "corrupt": "corrupt/a/3.png: is not an image that can be read",
    "hollow": "hollow/b: holds no image",
    "flat": "flat: has no sub-folders",
    "nothing": "nothing: has no sub-folders",
}


@pytest.mark.parametrize("name", FOLDERS)
def test_folders_of_images(name: str, call: Call) -> None:
    for made in ("corrupt/a", "corrupt/b", "hollow/a", "hollow/b", "flat", "nothing"):
        Path(made).mkdir(parents=True)
    for folder in ("corrupt/a", "corrupt/b", "hollow/a", "flat"):
        for number in range(6):
            Image.new("RGB", (9, 9), (number, 0, 0)).save(f"{folder}/{number}.png")
    Path("corrupt/a/3.png").write_text("no image")
    source = f"--source={{name: arrays, path: {name}, image_size: 8}}"
    assert FOLDERS[name] in refusal(call, "run", "ok.yaml", source)


JS = "metric: immediate_js, subject: requests, model: retrained"
STUDIES = [
    ("criteria: [{name: c, metric: average_acuracy, of: a, above: 0}]", "no run produces 'average_acuracy'"),
    ("criteria: [{name: c, metric: average_accuracy, of: zz, above: 0}]", "there is no strategy 'zz'. Allowed: a."),
    ("criteria: [{name: c, metric: average_accuracy, of: a}]", "needs exactly one of above, below and within"),
    ("criteria: [{name: c, metric: average_accuracy, of: a, above: 0, below: 1}]", "needs exactly one of above, below"),
    (
        "criteria: [{name: c, metric: accuracy, subject: taks-0, of: a, above: 0}]",
        "no run has 'taks-0'. Did you mean 'task-0'?",
    ),
    ("criteria: [{name: c, metric: average_accuracy, of: a, above: 0, event: request-77}]", "there is no 'request-77'"),
    (f"criteria: [{{name: c, {JS}, of: a, below: 1}}]", "model: no run produces 'retrained'"),
    ("grid: {training.lrr: [1]}", "training.lrr: there is no such key. Did you mean 'lr'?"),
    ("grid: {training.lr: []}", "grid.training.lr: [] is not valid"),
    ("seeds: [0, 0]", "are the same. Take the repeated value out of grid or seeds"),
    ("seeds: [-1]", "seed: -1 is not valid: it must be 0 or more"),
    ("seeds: 0", "seeds: 0 is not valid"),
    ("name: ../../evil", "name: '../../evil' is not valid"),
    ("base: self.yaml", "Cannot read the configuration"),
]


@pytest.mark.parametrize(("line", "says"), STUDIES, ids=[line[:60] for line, _ in STUDIES])
def test_a_study(line: str, says: str, call: Call) -> None:
    key = line.partition(":")[0]
    kept = "".join(f"{rest}\n" for rest in STUDY.splitlines() if not rest.startswith(f"{key}:"))
    Path("study.yaml").write_text(f"{kept}{line}\n")
    assert says in refusal(call, "study", "study.yaml", "--workers", "1")


COMMANDS = [
    ("run quickstrat", "Did you mean 'quickstart'?"),
    ("run .", "'.' is neither a ready scenario nor a .yaml file"),
    ("run", "Missing argument"),
    ("run nosuch.yaml", "Cannot read the configuration nosuch.yaml"),
    ("run ok.yaml ok.yaml", "found 'ok.yaml', 'ok.yaml'"),
    ("run ok.yaml training.lr", "found 'ok.yaml', 'training.lr'"),
    ("run ok.yaml --nosuchflag", "There is no option '--nosuchflag'"),
    ("run ok.yaml --runs /proc/x", "Cannot write to /proc/x"),
    ("study ok.yaml", "ok.yaml is a run, not a study"),
    ("resume nosuch", "is not a run folder"),
    ("resume .", "is not a run folder"),
    ("report .", "is not a run folder"),
    ("report nosuch", "is not a run or study folder"),
    ("report ok.yaml", "is not a run folder"),
    ("report nosuch --format xlsx", "There is no format 'xlsx'"),
    ("compare", "Missing argument"),
    ("compare nosuch", "is not a run folder"),
    ("verify nosuch", "is not a run folder"),
    ("capacity --shards x", "must be whole numbers separated by commas"),
    ("capacity --shards 0", "shards: 0 is not valid: it must be 1 or more"),
    ("capacity --shards 5,5,-1", "shards: -1 is not valid"),
    ("show nosuchthing", "There is nothing called 'nosuchthing'"),
    ("list nosuchkind", "There is no kind 'nosuchkind'"),
    ("init ok", "is there already and is not overwritten"),
    ("frobnicate", "No such command 'frobnicate'"),
]


@pytest.mark.parametrize(("typed", "says"), COMMANDS, ids=[typed for typed, _ in COMMANDS])
def test_a_command(typed: str, says: str, call: Call) -> None:
    assert says in refusal(call, *typed.split())
