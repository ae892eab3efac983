"""Commands that measure."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from palm_cache.cli.options import takes
from palm_cache.cli.progress import progress_bar
from palm_cache.cli.terminal import Json, note, print_json, print_table, tell
from palm_cache.params import BenchParams, Params, Recipe
from palm_cache.params.use import LoadingParams

if TYPE_CHECKING:
    from palm_cache.bench.extraction import Result


@takes(where=(Params, ("encoder",)), bench=BenchParams, loading=(LoadingParams, ("tokenizer",)))
def extract(
    where: Params,
    bench: BenchParams,
    loading: LoadingParams,
    files: Annotated[Path, typer.Option(help="Folder with audio, at any depth.", metavar="DIR")] = Path(
        "data/raw/demo"
    ),
    as_json: Json = False,
) -> None:
    """Time extraction against a plain loop over the same files.

    And against the encoder alone. The plain loop is transformers' processor and model, file by file, on the
    CPU. "of ceiling" is what part of the speed of the audio tower alone, on log-mel that lies ready, is
    reached; cosines compare embeddings with those of palm-cache's first way. Ways that cannot be measured
    here are left out and reported.

    Example: palm-cache bench extract --encoder clap:laion/clap-htsat-unfused --files recordings
    """
    with progress_bar("turns") as progress:
        from palm_cache.bench.extraction import bench_extraction, contenders
        from palm_cache.bench.runners import ExtractionSetup

        recipe = Recipe(compile=bench.compile, tokenizer=loading.tokenizer)
        how = ExtractionSetup(recipe, bench.device, bench.batch_size)
        benchmark = bench_extraction(
            where.encoder,
            files,
            contenders(how, bench.precision, bench.runtime),
            n_clips=bench.clips,
            rounds=bench.rounds,
            threads=bench.threads or None,
            progress=progress,
        )
    note(*(f"left out: {reason}" for reason in benchmark.left_out))
    if as_json:
        print_json(asdict(benchmark))
        return
    counts = f"{benchmark.n_files} files, {benchmark.rounds} rounds, {benchmark.threads} threads"
    before, after = benchmark.load_average
    tell(
        f"{benchmark.encoder}: {counts}", f"{benchmark.machine}; load average {before} before, {after} after"
    )
    rows = [_cells(result) for result in benchmark.results]
    print_table(list(rows[0]), [list(row.values()) for row in rows])


def _cells(result: Result) -> dict[str, str]:
    tower = result.tower_seconds is not None and result.of_ceiling is not None
    return {
        "way": result.name,
        "s/clip": f"{result.seconds:.4f}",
        "CPU s/clip": f"{result.cpu_seconds:.4f}",
        "speedup": f"{result.speedup:.2f}",
        "tower s/clip": f"{result.tower_seconds:.4f}" if tower else "",
        "of ceiling": f"{result.of_ceiling:.2f}" if tower else "",
        "lowest cosine": f"{result.min_cosine:.6f}",
        "peak GB": f"{result.peak_bytes / 1e9:.2f}",
        "start s": f"{result.start_seconds:.1f}",
    }
