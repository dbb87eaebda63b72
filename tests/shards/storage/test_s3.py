"""A real S3 interface on this machine: pack to it, copy, stream from it."""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from shards.contract.schema import View
from shards.pack import write_shards as pack_module
from shards.pack.assign import PackOptions
from shards.pack.copy import copy
from shards.pack.verify import verify
from shards.pack.write_shards import pack
from shards.storage.cache_folder import CacheSpec
from shards.storage.local import open_storage
from shards.storage.object_store import CREDENTIALS, has_credentials
from shards.stream.shardset import open_shards
from shards.stream.stream import evaluation_batches

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),  # moto's sockets
]
Packed = Callable[[View], Path]


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the URL of an empty bucket that the environment's credentials open."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint,
    }.items():
        monkeypatch.setenv(name, value)
    name = f"b{uuid.uuid4().hex}"
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
    client.create_bucket(Bucket=name)
    client.close()
    return f"s3://{name}"


def test_pack_to_s3_gives_the_same_bytes(store: Path, packed: Packed, bucket: str) -> None:
    url = f"{bucket}/some/set"
    options = PackOptions(samples_per_shard=16)
    pack(store, "cube", url, options)
    remote = open_storage(url)
    for path in packed("cube").iterdir():
        assert remote.read(path.name) == path.read_bytes()
    assert remote.names() == sorted(path.name for path in packed("cube").iterdir())
    assert verify(url) == []
    pack(store, "cube", url, options)  # finds all of it done
    with pytest.raises(ValueError, match="belongs to another packing"):
        pack(store, "cube", url, PackOptions(samples_per_shard=16, seed=1))


def test_two_packings_into_one_bucket_are_told(
    store: Path, packed: Packed, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing can be locked: the same packing twice is well, another one is noticed."""
    url, options = f"{bucket}/two", PackOptions(samples_per_shard=16)
    run = pack_module._pack_all

    def run_beside(*arguments: Any) -> Any:
        done = run(*arguments)
        with open_storage(url).create("val-000000.index.parquet") as file:
            file.write((packed("cube") / "train-000000.index.parquet").read_bytes())
        return done

    monkeypatch.setattr(pack_module, "_pack_all", run_beside)
    with pytest.raises(ValueError, match="belongs to another packing"):
        pack(store, "cube", url, options)
    assert "manifest.json" not in open_storage(url).names()


def test_copy_there_and_back_and_stream(
    packed: Packed,
    bucket: str,
    tmp_path: Path,
    digests: Callable[[Path], dict[str, str]],
) -> None:
    url = f"{bucket}/set"
    copy(str(packed("patch")), url)
    copy(url, str(tmp_path / "back"))
    assert digests(tmp_path / "back") == digests(packed("patch"))
    (tmp_path / "back" / "val-000000.tar").write_bytes(b"half")
    copy(url, str(tmp_path / "back"))
    assert digests(tmp_path / "back") == digests(packed("patch"))
    cache = CacheSpec(folder=tmp_path / "cache", limit_bytes=10**8)
    with open_shards(str(packed("patch"))) as here:
        expected = here.read_images("test", range(len(here.index("test"))))
    for chosen in (None, cache):
        with open_shards(url, chosen) as shards:
            images = [batch.images.copy() for batch in evaluation_batches(shards, "test", 100)]
            assert images[0].tobytes() == expected.tobytes()


def test_an_altered_source_is_not_copied(altered: Path, tmp_path: Path) -> None:
    path = altered / "test-000000.tar"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match=r"test-000000.tar has SHA-256"):
        copy(str(altered), str(tmp_path / "out"))
    assert not (tmp_path / "out" / "test-000000.tar").exists()
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_another_set_is_not_overwritten(packed: Packed, tmp_path: Path) -> None:
    copy(str(packed("cube")), str(tmp_path / "out"))
    with pytest.raises(ValueError, match="holds another shard set"):
        copy(str(packed("patch")), str(tmp_path / "out"))


def test_a_bucket_that_is_not_there_is_named(bucket: str) -> None:
    with pytest.raises(
        ValueError, match=r"s3://nowhere-to-be-found/set/manifest.json: there is no such buck"
    ):
        open_shards("s3://nowhere-to-be-found/set")
    with pytest.raises(ValueError, match="cannot use ftp://"):
        open_shards("ftp://somewhere/set")


def test_without_credentials_a_bucket_is_read_anonymously_and_that_is_said(
    bucket: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in (*CREDENTIALS["s3"], "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    assert open_storage(bucket).names() == []
    open_storage(bucket)
    stderr = capsys.readouterr().err
    assert stderr.count("anonymously") == 1
    assert "AWS_SKIP_SIGNATURE=false" in stderr
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "false")
    assert has_credentials("s3")
