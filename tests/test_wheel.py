"""Does what is published hold what it must, and work where nothing else is?"""

import os
import pathlib
import subprocess
import sys
import tarfile
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parent.parent
pytestmark = pytest.mark.slow


def run(*command, **options):
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """The sdist, and the wheel that was made from it."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", out, ROOT)
    return out


@pytest.fixture(scope="module")
def wheel(dist):
    (path,) = dist.glob("*.whl")
    return path


def package():
    kinds = (".py", ".cc", ".cu", ".typed")
    return {
        str(path.relative_to(ROOT))
        for path in (ROOT / "jaxrnn").rglob("*")
        if path.suffix in kinds or path.name == "py.typed"
    }


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    held = set(zipfile.ZipFile(wheel).namelist())
    assert {name for name in held if ".dist-info/" not in name} == package()
    assert any(name.endswith("licenses/LICENSE") for name in held)


def test_the_sdist_holds_what_a_wheel_is_made_of(dist):
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        files = [entry.name for entry in archive.getmembers() if entry.isfile()]
    held = {name.split("/", 1)[1] for name in files}
    assert package() | {"pyproject.toml", "README.md", "LICENSE"} <= held
    rooms = {name.split("/")[0] for name in held if "/" in name}
    assert rooms == {"jaxrnn", "tests", "docs", "experiments"}
    assert not {name for name in held if name.startswith("experiments/results/")}


def test_it_trains_in_a_bare_environment(wheel, tmp_path):
    """The first example of the README, where pip has installed the wheel alone."""
    run(sys.executable, "-m", "venv", tmp_path / "bare")
    python = tmp_path / "bare" / "bin" / "python"
    constraints = ROOT / "constraints.txt"
    run(python, "-m", "pip", "install", "--quiet", "-c", constraints, wheel)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    example = readme.split("<!-- example -->\n```python\n")[1].split("```")[0]
    code = f"{example}\nprint(jaxrnn.__file__, history['val_loss'][-1])"
    hidden = {"PYTHONPATH", "VIRTUAL_ENV", "TFDS_DATA_DIR"}
    bare = {name: value for name, value in os.environ.items() if name not in hidden}
    where, loss = run(python, "-c", code, cwd=tmp_path, env=bare).split()
    assert where.startswith(str(tmp_path / "bare"))
    assert float(loss) < 0.13
