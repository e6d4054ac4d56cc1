"""The Debian package without building it: what it would install, and what its scripts do to files of the owner."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from agent.cli.main import COMMANDS
from agent.schema.settings import Settings
from agent.storage.yaml_files import load_policy, load_settings
from tests.test_systemd import UNIT, analyze

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "deploy" / "debian"
DROP_INS = sorted((ROOT / "systemd" / "drop-ins").glob("*.conf"))


@pytest.fixture(scope="module")
def loaded():
    """Load a program without suffix as a module."""

    def load(name, path):
        loader = importlib.machinery.SourceFileLoader(name, str(path))
        module = importlib.util.module_from_spec(importlib.util.spec_from_loader(name, loader))
        written, sys.dont_write_bytecode = sys.dont_write_bytecode, True
        loader.exec_module(module)
        sys.dont_write_bytecode = written
        return module

    return load


@pytest.fixture(scope="module")
def recipe(loaded):
    return loaded("recipe", FOLDER / "build")


@pytest.fixture(scope="module")
def tree(recipe, tmp_path_factory):
    """Everything but the vendored packages, which need an index."""
    tree = tmp_path_factory.mktemp("package") / "tree"
    recipe.stage(tree)
    recipe.environment(tree / recipe.LIB)
    recipe.derive(tree)
    recipe.describe(tree, "1.2.3")
    recipe.own(tree)
    return tree


def test_shipped_settings_are_all_comments_and_therefore_the_defaults(tree):
    shipped = tree / "etc/qeil/agent.yaml"
    assert load_settings(shipped, {}) == Settings(version=1)
    assert "#models:" in shipped.read_text()
    assert "/usr/share/qeil/docs/schemas/settings.json" in shipped.read_text()


def test_the_owner_finds_a_policy_to_edit_that_is_valid(tree):
    assert load_policy(tree / "etc/qeil/policies/site.yaml").name == "site"


def test_debian_12s_event_loop_is_new_enough_for_the_wheel_too(recipe):
    assert "python3-uvloop" in recipe.RECOMMENDS
    assert '"uvloop>=0.17"' in (ROOT / "pyproject.toml").read_text()  # bookworm has 0.17


def test_upgrades_ask_before_they_overwrite_anything_under_etc(tree):
    listed = (tree / "DEBIAN/conffiles").read_text().split()
    assert listed == sorted(f"/{p.relative_to(tree)}" for p in (tree / "etc").rglob("*") if p.is_file())
    assert "/etc/qeil/agent.yaml" in listed


def test_removal_leaves_state_and_purge_does_not(tree):
    scripts = {name: (tree / "DEBIAN" / name).read_text() for name in ("postinst", "prerm", "postrm")}
    before, _, after = scripts["postrm"].partition('if [ "$1" = purge ]')
    for line in (before + scripts["prerm"] + scripts["postinst"]).splitlines():
        assert not ("rm -r" in line and "/var/lib" in line), line
    assert "/var/lib/qeil" in after.partition("fi\n")[0]


@pytest.mark.parametrize("name", ["postinst", "prerm", "postrm", "qeil"])
def test_scripts_are_shell_that_parses_and_stops_at_an_error(name):
    assert subprocess.run(["sh", "-n", FOLDER / name], check=False).returncode == 0
    assert name == "qeil" or "set -e" in (FOLDER / name).read_text()


def test_the_installed_files_are_where_the_unit_and_the_agent_look_for_them(tree):
    for path in ("usr/bin/qeil", "usr/lib/systemd/system/qeil.service", "usr/lib/sysusers.d/qeil.conf",
                 "usr/lib/tmpfiles.d/qeil.conf", "usr/share/qeil/policies/balanced.yaml", "usr/lib/qeil/agent/ports.py",
                 "usr/lib/qeil/agent/api/static/index.html", "usr/share/man/man1/qeil.1.gz"):  # fmt: skip
        assert (tree / path).is_file(), path
    assert os.access(tree / "usr/bin/qeil", os.X_OK)
    assert not list(tree.rglob("__pycache__"))
    assert "_qeil_completion" in (tree / "usr/share/bash-completion/completions/qeil").read_text()


def test_completion_and_manual_that_are_shipped_are_those_of_the_command_line(loaded):
    made = loaded("make", ROOT / "deploy/completion/make")
    manual = made.manual("1.2.3")
    assert all(f".B qeil {name}\n" in manual for name in COMMANDS)
    assert [path.name for path, text in made.files().items() if path.read_text() != text] == [], (
        "deploy/completion/make"
    )


def test_package_and_wheel_ship_the_manual_and_completion_of_three_shells(tree):
    for path in ("bash-completion/completions/qeil", "zsh/vendor-completions/_qeil",
                 "fish/vendor_completions.d/qeil.fish", "man/man1/qeil.1.gz"):  # fmt: skip
        assert (tree / "usr/share" / path).stat().st_size > 100, path
    wheel = (ROOT / "pyproject.toml").read_text().partition("wheel.shared-data]\n")[2].partition("\n\n")[0]
    shipped = dict(line.replace('"', "").split(" = ") for line in wheel.splitlines() if line)
    assert set(shipped.values()) == {
        "share/man/man1/qeil.1", "share/bash-completion/completions/qeil", "share/zsh/site-functions/_qeil",
        "share/fish/vendor_completions.d/qeil.fish",
    }  # fmt: skip
    assert all((ROOT / source).is_file() for source in shipped)


def test_every_runtime_dependency_is_vendored_or_debians(recipe):
    text = (ROOT / "pyproject.toml").read_text()
    needed = re.findall(r'^    "([A-Za-z0-9-]+)', text.partition("dependencies = [")[2].partition("]")[0], re.MULTILINE)
    debian = {
        name.strip().split()[0].removeprefix("python3-") for name in f"{recipe.DEPENDS}, {recipe.RECOMMENDS}".split(",")
    }
    alias = {"pyyaml": "yaml", "pynacl": "nacl"}
    for name in needed:
        assert alias.get(name, name) in debian | set(recipe.PURE) | set(recipe.COMPILED), name


@pytest.mark.parametrize(("was", "calls"), [("enabled", 1), ("disabled", 0)])
def test_removed_and_installed_again_the_service_is_as_it_was(was, calls, tmp_path):
    (tmp_path / "var/lib/qeil").mkdir(parents=True)
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    (tmp_path / "usr/lib/qeil").mkdir(parents=True)
    (tmp_path / "state").write_text(was)
    (tmp_path / "bin").mkdir()
    systemctl = tmp_path / "bin/systemctl"
    systemctl.write_text(
        f'#!/bin/sh\necho "$1" >> {tmp_path}/calls\ncase $1 in disable|enable) echo "$1d" > {tmp_path}/state;;\n'
        f"is-enabled) grep -q enabled {tmp_path}/state;; esac\n"
    )
    for name in ("systemd-sysusers", "systemd-tmpfiles"):
        (tmp_path / "bin" / name).write_text("#!/bin/sh\n")
    for file in (tmp_path / "bin").iterdir():
        file.chmod(0o755)

    for script, arguments in (("prerm", ["remove"]), ("postinst", ["configure", "1.0"])):
        text = re.sub(r"/(?=var/lib/|run/systemd|usr/lib/)", f"{tmp_path}/", (FOLDER / script).read_text())
        environment = {"PATH": f"{tmp_path}/bin:/usr/bin:/bin"}
        subprocess.run(["sh", "-c", text, script, *arguments], env=environment, check=True, capture_output=True)

    assert (tmp_path / "calls").read_text().split().count("enable") == calls
    assert (tmp_path / "calls").read_text().split().count("restart") == calls
    assert not list((tmp_path / "var/lib/qeil").iterdir())


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is not installed: apt-get install dpkg")
def test_dpkg_packs_it(tree, tmp_path):
    package = tmp_path / "qeil.deb"
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-Znone", "--build", tree, package], check=True, capture_output=True
    )
    fields = subprocess.run(["dpkg-deb", "--field", package], capture_output=True, text=True, check=True).stdout
    assert "Architecture: all" in fields
    assert "Version: 1.2.3" in fields


@pytest.mark.parametrize("drop_in", DROP_INS, ids=lambda p: p.stem)
def test_systemd_accepts_every_drop_in_and_the_exposure_stays_low(drop_in, tmp_path):
    folder = tmp_path / "qeil.service.d"
    folder.mkdir()
    shutil.copy(UNIT, tmp_path / "qeil.service")
    shutil.copy(drop_in, folder / drop_in.name)
    done = analyze("verify", str(tmp_path / "qeil.service"))
    assert (done.returncode, done.stderr.strip()) == (0, "")
    assert analyze("security", "--offline=true", "--threshold=25", str(tmp_path / "qeil.service")).returncode == 0
