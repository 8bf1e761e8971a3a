"""What so many daily users need, from what one visit costs here.

    python benchmarks/capacity.py [--bundle PATH] [--device cpu|cuda] [--photograph PATH] [--json]

Measured: the device's time per encode and per decode in the engine's own full batches, the
processor's time to write a frame and to make an edited photograph, what a record takes in a real
Redis, and the bytes of a frame and of a photograph. All else is the visit, which the options
state; `--photograph` takes one of your own instead of a generated one of twelve megapixels.
"""

import asyncio
import io
import json
import math
import platform
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import redis as redis_client
import torch
import typer
from PIL import Image

from app import faces, photos
from app.crops import cut
from app.engine import LocalEngine
from app.latents import Record, RedisStore
from app.photos import Pixels
from model.bundle import Bundle
from model.runtime import keep_freed_memory
from service import SHIPPED, redis

USERS = (1_000, 100_000, 10_000_000)
ROUNDS = 3
BATCHED = 64  # requests at once, which fill the engine's batches
BUSY = 0.6  # of a device or a core at the peak: past it, waits grow faster than work
HOUR = 3600


@dataclass(frozen=True)
class Visit:
    """One photograph's way through the service."""

    encode: float  # device seconds
    decode: float  # device seconds of one frame
    frame: float  # processor seconds to write one frame
    photo: float  # processor seconds to make and write one edited photograph
    upload: int  # bytes
    saved: int  # bytes of an edited photograph
    picture: int  # bytes of a frame
    latent: int  # bytes that Redis sends for one frame
    record: int  # bytes that it keeps


def median_seconds(call: Callable[[], object], times: int = 9) -> float:
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return float(np.median(taken))


async def on_device(bundle: Bundle) -> tuple[float, float, list[Pixels]]:
    """Device seconds per encode and per decode, and some faces."""
    spent: Counter[str] = Counter()
    done: Counter[str] = Counter()

    def observe(work: str, size: int, seconds: float) -> None:
        spent[work] += seconds
        done[work] += size

    engine = LocalEngine(bundle, deadline=600.0, observe=observe)
    try:
        latents = await engine.sample(BATCHED, 0.7, 0)
        for turn in range(ROUNDS):
            crops = await asyncio.gather(*map(engine.decode, latents))
            await asyncio.gather(*map(engine.encode, crops))
            if turn == 0:  # it warms up
                spent.clear()
                done.clear()
    finally:
        engine.close()
    return spent["encode"] / done["encode"], spent["decode"] / done["decode"], list(crops)


def photograph(face: Pixels) -> bytes:
    """Twelve megapixels of a face, with the grain of a camera."""
    large = Image.fromarray(face).resize((3000, 4000), Image.Resampling.BICUBIC)
    grain = np.random.default_rng(0).normal(0, 3, (4000, 3000, 1))
    pixels = (np.asarray(large) + grain).clip(0, 255).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=90)
    return out.getvalue()


async def record_bytes(record: Record) -> int:
    with redis() as url:
        store = RedisStore(url, HOUR)
        latent_id = await store.put(record)
        await store.close()
        with redis_client.Redis.from_url(url) as client:
            return int(client.memory_usage(f"glow:latent:{latent_id}", samples=0))


def measure(bundle: Bundle, upload: bytes | None) -> Visit:
    encode, decode, crops = asyncio.run(on_device(bundle))
    frames = [photos.write(crop, "jpeg") for crop in crops]
    data = upload or photograph(crops[0])
    box = faces.centred(photos.read(data, 10**8))

    def edited() -> bytes:
        photo = photos.read(data, 10**8)
        before = cut(photo, box, bundle)
        changed = crops[1].astype(np.float32) - before
        return photos.write(faces.paste_back(photo, box, changed), "jpeg")

    latent = np.zeros(bundle.flow.config.dimensions)
    return Visit(
        encode,
        decode,
        frame=median_seconds(lambda: photos.write(crops[0], "jpeg"), 99),
        photo=median_seconds(edited, 3),
        upload=len(data),
        saved=len(edited()),
        picture=round(float(np.mean([len(frame) for frame in frames]))),
        latent=latent.nbytes,
        record=asyncio.run(record_bytes(Record(latent, bundle.identity, box, data))),
    )


def size(count: float, per: str = "B") -> str:
    power = min(4, max(0, int(math.log10(max(count, 1)) // 3)))
    return f"{count / 1000**power:.3g} {('', 'k', 'M', 'G', 'T')[power]}{per}"


def main(
    bundle: Annotated[Path, typer.Option(help="The model.")] = SHIPPED,
    device: Annotated[str, typer.Option(help="A torch device.")] = "cpu",
    photo: Annotated[Path | None, typer.Option("--photograph", help="An upload.")] = None,
    visits: Annotated[float, typer.Option(help="Photographs of one user on one day.")] = 1.0,
    drag: Annotated[float, typer.Option(help="Seconds with a hand on a slider, a visit.")] = 30.0,
    rate: Annotated[float, typer.Option(help="Frames a second of a hand.")] = 15.0,
    peak: Annotated[float, typer.Option(help="Share of a day's visits in its busiest hour.")] = 0.1,
    keep: Annotated[int, typer.Option(help="Time to live, seconds.")] = HOUR,
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
) -> None:
    """Devices, memory and bandwidth for so many daily users."""
    keep_freed_memory()  # as the service does
    loaded = Bundle.load(bundle, device)
    one = measure(loaded, photo.read_bytes() if photo else None)
    print(
        f"{bundle.stem} on {device}, {platform.machine()}, torch {torch.__version__} with "
        f"{torch.get_num_threads()} thread(s)\n"
    )
    for name, value in (
        ("device, one encode", f"{one.encode * 1e3:.2f} ms"),
        ("device, one decode", f"{one.decode * 1e3:.2f} ms"),
        ("processor, one frame written", f"{one.frame * 1e3:.2f} ms"),
        ("processor, one photograph edited", f"{one.photo * 1e3:.0f} ms"),
        ("upload", size(one.upload)),
        ("photograph answered", size(one.saved)),
        ("frame answered", size(one.picture)),
        ("latent that a frame fetches", size(one.latent)),
        ("record in Redis", size(one.record)),
    ):
        print(f"{name:40}{value:>12}")
    print(
        f"\n{visits:g} photograph(s) a user and day, {peak:.0%} of them in the busiest hour, each "
        f"dragged {drag:g} s at {rate:g} frames a second,\nsaved once, kept {keep} s; devices and "
        f"cores busy {BUSY:.0%} of the time\n"
    )
    needs: dict[str, list[str]] = {}
    figures: dict[str, float] = {f"visit_{name}": value for name, value in vars(one).items()}
    for users in USERS:
        arrivals = users * visits * peak / HOUR
        frames = arrivals * drag * rate
        work = {
            "devices": (frames * one.decode + arrivals * (one.decode + one.encode)) / BUSY,
            "cores": (frames * one.frame + arrivals * one.photo) / BUSY,
            "redis_bytes": arrivals * keep * one.record,
            "redis_bytes_per_second": frames * one.latent
            + arrivals * (one.latent + 2 * one.upload),
            "in_bytes_per_second": arrivals * one.upload,
            "out_bytes_per_second": frames * one.picture + arrivals * one.saved,
        }
        figures |= {f"{name}_{users}": value for name, value in work.items()}
        for name, text in (
            ("visits a second at the peak", f"{arrivals:.3g}"),
            ("frames a second at the peak", f"{frames:,.0f}"),
            (f"devices ({device})", f"{math.ceil(work['devices']):,}"),
            ("other processor cores", f"{math.ceil(work['cores']):,}"),
            ("Redis, memory", size(work["redis_bytes"])),
            ("Redis, traffic", size(work["redis_bytes_per_second"], "B/s")),
            ("traffic in", size(work["in_bytes_per_second"], "B/s")),
            ("traffic out", size(work["out_bytes_per_second"], "B/s")),
        ):
            needs.setdefault(name, []).append(text)
    print(f"{'daily users':32}" + "".join(f"{users:>14,}" for users in USERS))
    for name, row in needs.items():
        print(f"{name:32}" + "".join(f"{text:>14}" for text in row))
    if as_json:
        print(json.dumps({name: round(float(value), 6) for name, value in figures.items()}))


if __name__ == "__main__":
    typer.run(main)
