"""Plans as files: what they say is what the command line would say, and what is on the line wins."""

from pathlib import Path

import pytest

from matl_scale.commands.sweep import build_parser, main, read_seeds
from matl_scale.errors import InputError
from matl_scale.sweep.plan_file import KEYS, expand_plan
from matl_scale.sweep.vary import read_varied
from matl_scale.train.parse_config import parse_config

ROOT = Path(__file__).parents[2]
PLANS = [path for path in (ROOT / "launch" / "configs").rglob("*.yaml") if "\nbudget:" in path.read_text()]
PLAN = """
out: sweeps/mine
set:
  optim.lr: 1e-3
  data.tasks: ["on", no, a b]
  routing.sigmas: {layer1: 0.5}
  train.epochs: 4
config: base.yaml
arms: [dense, k8]
seeds: [5]
vary: {routing.sigma: [0.5, 1], model.name: [on, "resnet18"], T: [2, 4]}
budget: labels=2e4
single-tasks: [bird_*, fish]
"""


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    (tmp_path / "plan.yaml").write_text(PLAN)
    return tmp_path / "plan.yaml"


def parse(arguments: list[str]) -> tuple[dict[str, object], list[str]]:
    options, config_arguments = build_parser("matl-sweep").parse_known_args(arguments)
    return vars(options), config_arguments


def test_a_plan_is_what_its_line_would_be(plan: Path) -> None:
    options, config = parse(expand_plan([f"--plan={plan}"]))
    assert (options["arms"], options["budget"], options["out"]) == ("dense,k8,", "labels=2e4", Path("sweeps/mine"))
    assert options["single_tasks"] == ["bird_*", "fish"]
    assert read_seeds(str(options["seeds"])) == [5]
    assert config[0] == "--config=base.yaml", "keys under `set` change the config, so they come after it"
    parsed = parse_config(config[1:], "test", "")
    assert (parsed.optim.lr, parsed.data.tasks, parsed.routing.sigmas) == (1e-3, ["on", "no", "a b"], {"layer1": 0.5})
    varied = {each.key: each.values for each in read_varied(options["vary"], [], "test")}  # type: ignore[arg-type]
    assert varied == {"routing.sigma": [0.5, 1.0], "model.name": ["on", "resnet18"], "T": [2, 4]}


@pytest.mark.parametrize("path", PLANS, ids=[path.name for path in PLANS])
def test_the_plans_of_the_repository_can_be_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    options, config = parse(expand_plan(["--plan", str(path)]))
    assert options["arms"]
    assert parse_config(config, "test", "").data.path


def test_the_line_wins(plan: Path) -> None:
    line = ["--seeds", "3", "--plan", str(plan), "--vary", "optim.lr=1,2", "--train.steps", "9", "--data.tasks", "x*"]
    options, config = parse(expand_plan(line))
    assert (options["seeds"], options["vary"], options["arms"]) == ("3", ["optim.lr=1,2"], "dense,k8,")
    parsed = parse_config([each for each in config if each != "--config=base.yaml"], "test", "")
    assert (parsed.data.tasks, parsed.train.steps, parsed.train.epochs) == ("x*", 9, "auto")
    assert expand_plan(["--arms", "dense"]) == ["--arms", "dense"]


def test_every_option_may_stand_in_a_plan() -> None:
    options = {action.option_strings[-1][2:] for action in build_parser("matl-sweep")._actions}
    assert options - {"help", "plan", "dry-run"} == set(KEYS) - {"config", "set"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "should hold options of the sweep: config, arms"),
        ("- dense", "should hold options of the sweep"),
        ("arms: [", "cannot be read"),
        ("arm: dense", "Unknown key `arm` in the plan"),
        ("single_tasks: [a]", "Did you mean `single-tasks`?"),
        ("optim.lr: 0.1", "Put it under `set`"),
        ("set: {optim.rl: 0.1}", "Did you mean `optim.lr`?"),
        ("set: {optim: {lr: 0.1}}", "should name keys as `optim.NAME`"),
        ("set: [optim.lr]", "should hold keys of the config"),
        ("vary: {routing.sigma: 0.5}", "should hold keys with lists of values"),
        ("vary: routing.sigma=0.5", "should hold keys with lists of values"),
        ("out:", "`out` in the plan"),
        ("budget: {labels: 5}", "should be one value"),
        ("arms: [[dense]]", "should be a list of texts or numbers"),
    ],
)
def test_bad_plans_get_a_line(text: str, message: str, plan: Path) -> None:
    plan.write_text(text)
    with pytest.raises(InputError) as error:
        expand_plan(["--plan", str(plan)])
    assert message in str(error.value)
    assert str(plan) in str(error.value)


def test_a_plan_that_is_not_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--plan", str(tmp_path / "plan.yaml")])
    assert end.value.code == 2
    assert "plan.yaml cannot be read" in capsys.readouterr().err
    with pytest.raises(InputError, match="should be given once"):
        expand_plan(["--plan", "a.yaml", "--plan", "b.yaml"])
    with pytest.raises(InputError, match="should be followed by a YAML file"):
        expand_plan(["--plan"])
