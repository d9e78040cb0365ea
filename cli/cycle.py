"""`honed cycle` and `honed approve`: a turn of the circle from the command line, and a person's word on its end."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from honed.cli.failure import fail
from honed.cli.jobs import work
from honed.cli.store import DatabaseUrl, opened

if TYPE_CHECKING:
    from honed.server.store.cycles import CycleGoingOnError

_STAGES: Final = ("all", "sft", "reward", "ppo", "evaluation")


def cycle(
    model: Annotated[
        str, typer.Option(envvar="HONED_MODEL", help="What to begin with where no policy was promoted yet.")
    ] = "smollm2-135m-instruct",
    approve: Annotated[
        bool, typer.Option("--approve", help="Wait for `honed approve` before it is in service.")
    ] = False,
    share: Annotated[int, typer.Option(min=1, max=100, help="Per cent of users that try it out; 100 promotes.")] = 10,
    demonstrations: Annotated[int, typer.Option(min=1, help="New ones from which on SFT is a step.")] = 20,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="STAGE.NAME=VALUE", help=f"A setting of a stage: {', '.join(_STAGES)}."),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of all that is drawn; unset, a new one.")] = None,
    device: Annotated[str, typer.Option(help="What to train on: auto, cpu, cuda or cuda:N.")] = "auto",
    queue: Annotated[bool, typer.Option("--queue", help="Leave the work to a `honed worker`.")] = False,
    database_url: DatabaseUrl = None,
) -> None:
    """From what users said to a better policy in service: train, measure, try out. The same command goes on."""
    asked: dict[str, Any] = {"approve": approve, "share": share, "demonstrations": demonstrations}
    asked["settings"] = _parsed(settings or [])
    if seed is not None:
        asked["seed"] = seed

    from honed.server.store import cycles
    from honed.server.store.cycles import CycleGoingOnError, PolicyTriedOutError
    from honed.server.store.database import reading, writing

    with opened(database_url) as engine:
        try:
            with writing(engine) as connection:
                cycle_id = cycles.start(connection, model, asked, key_id=None).id
        except PolicyTriedOutError as error:
            raise fail(str(error)) from None
        except CycleGoingOnError as error:
            with reading(engine) as connection:
                cycle_id = _gone_on_with(connection, error, asked, model)
        if queue:
            print(cycle_id)
            return
        work(engine, database_url, device, once=True)
        with reading(engine) as connection:
            lines, status = _end_of(connection, cycle_id)
    print("\n".join(lines))
    raise typer.Exit(status)


def approve(
    cycle_id: Annotated[str | None, typer.Argument(help="The cycle that proposes a policy; unset, the newest.")] = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Put what a cycle proposes into service; servers follow within seconds."""
    from honed.server.store import cycles
    from honed.server.store.database import reading, writing
    from honed.training.cycle import advance

    with opened(database_url) as engine:
        with writing(engine) as connection:
            last = cycles.newest(connection)
            chosen = cycle_id or (last.id if last else None)
            if chosen is None or not cycles.approve(connection, chosen):
                raise fail(f"{chosen or 'The store'} proposes nothing: see /v1/cycles for what there is.")
        advance(engine)
        with reading(engine) as connection:
            lines, status = _end_of(connection, chosen)
    print("\n".join(lines))
    raise typer.Exit(status)


def _gone_on_with(connection: Any, error: CycleGoingOnError, asked: Mapping[str, Any], model: str) -> str:
    """The id of the cycle that has not ended, where these are its options."""
    from honed.server.store import cycles, jobs

    going = jobs.load(connection, error.cycle_id)
    assert going is not None, "cycles stay"
    if going.state == cycles.WAITING:
        raise fail(f"{going.id} proposes {going.result['candidate']}: honed approve {going.id}, or cancel it.")
    if going.payload["promoted_id"] is None:  # else it began with the policy in service, whatever `model` is
        asked = {**asked, "model": model}
    if any(going.payload.get(name) != value for name, value in asked.items()):
        raise fail(f"{error} It was asked for with other options.")
    print(f"Going on with {going.id}.")
    return going.id


def _end_of(connection: Any, cycle_id: str) -> tuple[list[str], int]:
    """What is said of a cycle when the work on it has ended, and the exit status."""
    from honed.server.store import cycles, jobs

    ended = jobs.load(connection, cycle_id)
    assert ended is not None, "cycles stay"
    if ended.error is not None:
        return [f"{cycle_id} failed. {ended.error}"], 1
    result = ended.result
    if ended.state in ("succeeded", "paused"):
        lines = [f"{result['candidate']}: {result['decision']}.", *result["reasons"]]
        if ended.state == "paused":
            lines.append(f"honed approve {cycle_id} puts it into service.")
        return lines, 0
    if ended.state == "cancelled":
        return [f"{cycle_id} was cancelled."], 1
    if cycles.asks_people(ended):
        people = result["evaluation"]["people"]
        return [
            f"{result['candidate']} waits for labelers: {people['judged']} prompts judged, {people['waiting']} not.",
            "The same command, or a worker, decides when they have answered.",
        ], 0
    return [f"{cycle_id} goes on: the same command works on it, where no step is paused."], 1


def _parsed(given: list[str]) -> dict[str, dict[str, Any]]:
    """`ppo.iterations=4` and the like, by stage."""
    found: dict[str, dict[str, Any]] = {stage: {} for stage in _STAGES}
    for each in given:
        name, equals, value = each.partition("=")
        stage, dot, setting = name.partition(".")
        if not equals or not dot or stage not in found or not setting:
            raise fail(f"--set {each}: write STAGE.NAME=VALUE, where the stage is one of {', '.join(_STAGES)}.")
        found[stage][setting.replace("-", "_")] = _value(value)
    return found


def _value(text: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, str | int | float) else text
