"""No contract test may write into the user's own cache; what the tests that train share."""

import pytest

from deit_transfer.data import catalog


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def untimed(monkeypatch):
    """Leave out the half second in which a run measures the machine's speed."""
    monkeypatch.setattr("deit_transfer.training.setup.images_per_second", lambda *_, **__: 100.0)


@pytest.fixture
def offer(monkeypatch):
    """Return a function that puts an adapter into the catalog, in place of one of its name."""

    def put(adapter):
        adapters = {**catalog._adapters(), adapter.info.name: adapter}
        monkeypatch.setattr(catalog, "_adapters", lambda: adapters)

    return put


@pytest.fixture
def known(offer, tmp_path):
    """Return a function that writes a miniature and returns what names it, and its folder."""
    from short_runs import BY_ADDRESS, BY_NAME

    def make(name):
        if name in BY_ADDRESS:
            return BY_ADDRESS[name](tmp_path / "data"), None
        offer(BY_NAME[name](tmp_path / "data"))
        return name, tmp_path / "data"

    return make


@pytest.fixture(scope="session")
def start(tmp_path_factory):
    """Return the folder of a tiny run that everything is fine-tuned from."""
    from short_runs import quick

    from deit_transfer.training.train import train

    return train(quick("scratch", "digits"), out=tmp_path_factory.mktemp("start"))["run"]
