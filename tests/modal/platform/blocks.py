"""What the client puts on a volume, and fetches from one, block by block: over HTTP, as it does at Modal."""

import asyncio
import hashlib
import shutil
import stat
from pathlib import Path

from modal_proto import api_pb2

from tests.modal.platform.volumes import Stored, Volume, Volumes
from tests.modal.platform.wire import not_found

BLOCK = 8 * 1024 * 1024
"""Bytes, as the client cuts files (`modal._utils.blob_utils`)."""


class Blocks:
    """Beside the volumes: the two calls by which files go up and down."""

    def __init__(self, volumes: Volumes, home: Path) -> None:
        self._volumes = volumes
        self._home = home / "blocks"
        self._home.mkdir(parents=True)
        self._server: asyncio.Server | None = None
        self._url = ""

    async def _listening(self) -> str:
        if self._server is None:
            self._server = await asyncio.start_server(self._meet, "127.0.0.1", 0, limit=2 * BLOCK)
            host, port = self._server.sockets[0].getsockname()[:2]
            self._url = f"http://{host}:{port}"
        return self._url

    def close(self) -> None:
        if self._server is not None:
            self._server.close()

    async def volume_put_files2(self, request: api_pb2.VolumePutFiles2Request) -> api_pb2.VolumePutFiles2Response:
        """Say which blocks are missing; once none is, have all files there in one step."""
        volume, url = self._volumes.named.find(request.volume_id), await self._listening()
        missing = [
            api_pb2.VolumePutFiles2Response.MissingBlock(
                file_index=at, block_index=number, put_url=f"{url}/{block.contents_sha256.hex()}"
            )
            for at, file in enumerate(request.files)
            for number, block in enumerate(file.blocks)
            if not (self._home / block.contents_sha256.hex()).exists()
        ]
        if not missing:
            written: dict[str, Stored] = {}
            for file in request.files:
                for parent in Path(file.path.strip("/")).parents:
                    if parent.name:
                        written.setdefault(parent.as_posix(), Stored(stat.S_IFDIR | 0o755))
                written[file.path.strip("/")] = self._whole(volume, file)
            volume.merge({path: one for path, one in written.items() if one.content or path not in volume.tree}, [])
        return api_pb2.VolumePutFiles2Response(missing_blocks=missing)

    def _whole(self, volume: Volume, file: api_pb2.VolumePutFiles2Request.File) -> Stored:
        made = self._home / f"whole-{hashlib.sha256(file.path.encode()).hexdigest()}"
        with made.open("wb") as whole:
            for number, block in enumerate(file.blocks):
                whole.seek(number * BLOCK)  # the client leaves zeros at the end of a block out
                with (self._home / block.contents_sha256.hex()).open("rb") as part:
                    shutil.copyfileobj(part, whole)
            whole.truncate(file.size)
        made.chmod(file.mode & 0o777)
        stored = volume.store(made)
        made.unlink()
        return stored

    async def volume_get_file2(self, request: api_pb2.VolumeGetFile2Request) -> api_pb2.VolumeGetFile2Response:
        tree = self._volumes.named.find(request.volume_id).tree
        stored = tree.get(request.path.strip("/"))
        if stored is None or stored.content is None:
            raise not_found(f"No such file or directory: {request.path!r}")
        size, url = stored.content.stat().st_size, await self._listening()
        urls = []
        with stored.content.open("rb") as content:
            while block := content.read(BLOCK):
                name = hashlib.sha256(block).hexdigest()
                (self._home / name).write_bytes(block)
                urls.append(f"{url}/{name}")
        return api_pb2.VolumeGetFile2Response(get_urls=urls, size=size, start=0, len=size)

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            method, path, _ = head[0].split(" ")
            headers = {name.lower(): value.strip() for name, _, value in (each.partition(":") for each in head[1:])}
            place = self._home / path.strip("/")
            if method == "PUT":
                place.write_bytes(await _body(reader, headers))
            body = b"kept" if method == "PUT" else place.read_bytes()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body)
            await writer.drain()
        finally:
            writer.close()


async def _body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if "content-length" in headers:
        return await reader.readexactly(int(headers["content-length"]))
    body = bytearray()
    while size := int((await reader.readuntil(b"\r\n")).strip(), 16):
        body += await reader.readexactly(size)
        await reader.readexactly(2)
    await reader.readexactly(2)
    return bytes(body)
