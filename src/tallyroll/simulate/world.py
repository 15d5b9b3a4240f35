"""The world that a simulated fleet lives in, as data: kinds of agents, their tools and models, what goes wrong.

Numbers are of the size that real fleets show; names of models and tools are made up. Nothing personal in it.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Tool(NamedTuple):
    """One tool: its median latency, the spread of it (sigma of the log-normal), when it gives up, and how often it fails."""

    name: str
    median_ms: float
    sigma: float
    timeout_ms: int
    failure_percent: float
    arguments: tuple[str, ...]


class Model(NamedTuple):
    """One model: median latency of a call, and its price in dollars per million tokens, which is micro-dollars per token."""

    name: str
    median_ms: float
    input_price: float
    output_price: float


class Kind(NamedTuple):
    """One kind of agent: its model, its tools, the tasks it is given, and how many steps such a task takes."""

    name: str
    model: Model
    tools: tuple[Tool, ...]
    tasks: tuple[str, ...]
    steps: tuple[int, int]
    capabilities: tuple[str, ...]


class Failure(NamedTuple):
    """A way for a tool to fail, and whether trying again may help."""

    error_type: str
    retriable: bool


LARGE: Final = Model("meridian-large", 3_200, 3.0, 15.0)
SMALL: Final = Model("meridian-small", 900, 0.25, 1.25)
CODER: Final = Model("lathe-2", 2_400, 1.5, 6.0)

WEB_SEARCH: Final = Tool("web_search", 620, 0.6, 10_000, 2.0, ("query", "max_results"))
FETCH_PAGE: Final = Tool("fetch_page", 450, 0.9, 15_000, 4.0, ("url",))
VECTOR_LOOKUP: Final = Tool("vector_lookup", 45, 0.4, 2_000, 0.5, ("embedding_id", "top_k"))
RUN_TESTS: Final = Tool("run_tests", 8_500, 0.8, 120_000, 6.0, ("path", "timeout_s"))
EDIT_FILE: Final = Tool("edit_file", 30, 0.5, 1_000, 1.5, ("path", "patch"))
READ_FILE: Final = Tool("read_file", 12, 0.5, 1_000, 0.5, ("path",))
TICKET_LOOKUP: Final = Tool("ticket_lookup", 180, 0.5, 5_000, 1.0, ("ticket_id",))
SEND_REPLY: Final = Tool("send_reply", 240, 0.4, 5_000, 1.0, ("ticket_id", "template"))
SQL_QUERY: Final = Tool("sql_query", 300, 1.1, 30_000, 3.0, ("statement_id", "limit"))
RENDER_CHART: Final = Tool("render_chart", 700, 0.4, 10_000, 1.0, ("dataset_id", "kind"))
DEPLOY: Final = Tool("deploy", 14_000, 0.6, 180_000, 5.0, ("service", "revision"))
READ_METRICS: Final = Tool("read_metrics", 150, 0.6, 5_000, 1.5, ("query", "range_s"))

KINDS: Final = (
    Kind(
        "researcher",
        LARGE,
        (WEB_SEARCH, FETCH_PAGE, VECTOR_LOOKUP),
        ("literature_review", "market_scan", "fact_check"),
        (3, 8),
        ("search", "summarise", "cite"),
    ),
    Kind(
        "coder",
        CODER,
        (READ_FILE, EDIT_FILE, RUN_TESTS),
        ("fix_bug", "write_tests", "review_change", "refactor"),
        (3, 9),
        ("read_code", "write_code", "run_tests"),
    ),
    Kind(
        "support",
        SMALL,
        (TICKET_LOOKUP, SEND_REPLY, VECTOR_LOOKUP),
        ("answer_ticket", "classify_ticket", "escalate_ticket"),
        (1, 4),
        ("read_ticket", "reply", "escalate"),
    ),
    Kind(
        "analyst",
        LARGE,
        (SQL_QUERY, RENDER_CHART, READ_METRICS),
        ("weekly_report", "explain_spike", "forecast"),
        (2, 6),
        ("query_data", "plot", "explain"),
    ),
    Kind(
        "operator",
        SMALL,
        (READ_METRICS, DEPLOY, READ_FILE),
        ("roll_out", "triage_alert", "rotate_certificate"),
        (2, 5),
        ("observe", "deploy", "roll_back"),
    ),
)

FAILURES: Final = (
    Failure("rate_limited", retriable=True),
    Failure("connection_reset", retriable=True),
    Failure("upstream_5xx", retriable=True),
    Failure("invalid_arguments", retriable=False),
    Failure("permission_denied", retriable=False),
    Failure("not_found", retriable=False),
)

WORKFLOWS: Final = (
    ("release", ("coder", "analyst", "operator")),
    ("incident_review", ("operator", "researcher", "analyst")),
    ("market_brief", ("researcher", "analyst", "support")),
    ("ticket_to_fix", ("support", "coder", "operator")),
)

PRIORITIES: Final = ("low", "normal", "normal", "normal", "high")
HOSTS: Final = ("node-1", "node-2", "node-3", "node-4", "node-5", "node-6")

# Load by hour of the day in UTC, as a share of the busiest hour: quiet nights, a dip at noon.
LOAD_BY_HOUR: Final = (
    0.18, 0.14, 0.12, 0.12, 0.15, 0.22, 0.38, 0.60, 0.82, 0.95, 1.00, 0.96,
    0.78, 0.88, 0.98, 0.97, 0.90, 0.74, 0.58, 0.46, 0.38, 0.32, 0.27, 0.22,
)  # fmt: skip
