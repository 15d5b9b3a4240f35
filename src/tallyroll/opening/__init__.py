"""Opening what the settings name, by area. Each adapter is imported only when it is chosen."""

from tallyroll.opening.analytics import (
    DETECTORS,
    alert_rules_of,
    metrics_of,
    new_detector,
    open_alert_sinks,
    open_window_store,
    scratch_window_store,
    window_store_file,
)
from tallyroll.opening.audit import (
    audit_folder,
    compliance_rules_of,
    file_witness,
    open_audit_keys,
    open_field_sealer,
    open_ledger_store,
    open_pii_finder,
    open_ring_keeper,
    open_witnesses,
)
from tallyroll.opening.bridges import open_message_source, open_message_target, open_outbox, open_state_target
from tallyroll.opening.log import open_log, open_tracing, spool_of
from tallyroll.opening.states import archive_folder, open_archive, open_replayer, open_state_store, replayer_on, seal_limits

__all__ = [
    "DETECTORS",
    "alert_rules_of",
    "archive_folder",
    "audit_folder",
    "compliance_rules_of",
    "file_witness",
    "metrics_of",
    "new_detector",
    "open_alert_sinks",
    "open_archive",
    "open_audit_keys",
    "open_field_sealer",
    "open_ledger_store",
    "open_log",
    "open_message_source",
    "open_message_target",
    "open_outbox",
    "open_pii_finder",
    "open_replayer",
    "open_ring_keeper",
    "open_state_store",
    "open_state_target",
    "open_tracing",
    "open_window_store",
    "open_witnesses",
    "replayer_on",
    "scratch_window_store",
    "seal_limits",
    "spool_of",
    "window_store_file",
]
