"""The audit trail, under the names that users of ``utils.audit_trail`` know."""

from tallyroll._api import create_audit_log, get_audit_manager, query_audit_trail
from tallyroll._default import audit_manager
from tallyroll.adapters.extras import CRYPTO_AVAILABLE
from tallyroll.audit.compliance.rules import ComplianceRule, ComplianceRuleEngine
from tallyroll.audit.entry import AuditEventCategory, AuditSeverity, ComplianceFramework
from tallyroll.audit.ledger.contents import AuditEntry
from tallyroll.audit.reading.links import AuditChain
from tallyroll.audit.reading.query import AuditPage
from tallyroll.audit.trail import AuditTrail
from tallyroll.audit.trail import AuditTrail as AuditTrailManager

__all__ = [
    "CRYPTO_AVAILABLE",
    "AuditChain",
    "AuditEntry",
    "AuditEventCategory",
    "AuditPage",
    "AuditSeverity",
    "AuditTrail",
    "AuditTrailManager",
    "ComplianceFramework",
    "ComplianceRule",
    "ComplianceRuleEngine",
    "audit_manager",
    "create_audit_log",
    "get_audit_manager",
    "query_audit_trail",
]
