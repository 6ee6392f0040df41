"""The experiments whose results the repository carries, for tests that go through all of them."""

from kvhelpers.paths import samples_dir

SAMPLES = sorted(path.parent.name for path in samples_dir().glob("*/experiment.yaml"))
