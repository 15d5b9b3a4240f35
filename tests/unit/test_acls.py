"""Who may do what: least privilege, from the catalogue."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from tallyroll.events.acls import OPERATIONS, SERVICES, Acl, acls_of, commands, matrix, principal_of
from tallyroll.events.topics import AUDIT_TOPIC, DEAD_LETTER_TOPIC, Catalogue
from tallyroll.roll import FOLLOWERS

CATALOGUE = Catalogue()
TENANT = Catalogue(prefix="acme.")
GOLDEN = Path(__file__).parents[1] / "golden" / "acls.txt"


def rules(service: str, catalogue: Catalogue = CATALOGUE) -> list[Acl]:
    return acls_of(service, catalogue, group_prefix=f"{catalogue.prefix}tallyroll")


def topics(service: str, operation: str) -> set[str]:
    return {acl.name for acl in rules(service) if acl.resource == "topic" and acl.operation == operation}


def test_the_whole_matrix_is_the_reviewed_one() -> None:
    """Changed on purpose? Then put the text that this test shows into the file, and have it reviewed as rights."""
    lines = []
    for title, catalogue in (("no prefix", CATALOGUE), ("tenant acme.", TENANT)):
        for service, acls in matrix(catalogue, group_prefix=f"{catalogue.prefix}tallyroll").items():
            lines += [f"# {title}: {service}", *commands(acls, f"{catalogue.prefix}{service}"), ""]
    assert "\n".join(lines) == GOLDEN.read_text(encoding="utf-8")


def test_only_the_audit_writer_writes_audit_entries() -> None:
    assert [service for service in SERVICES if AUDIT_TOPIC in topics(service, "Write")] == ["audit-writer"]


def test_only_followers_that_put_records_aside_write_dead_letters() -> None:
    assert {service for service in SERVICES if DEAD_LETTER_TOPIC in topics(service, "Write")} == {"state", "analytics", "redis", "nats"}


def test_every_follower_has_a_service_that_may_join_its_group() -> None:
    assert sorted(service.follower for service in SERVICES.values() if service.follower) == sorted(FOLLOWERS)


def test_analytics_writes_to_no_topic_that_it_reads() -> None:
    assert not topics("analytics", "Read") & topics("analytics", "Write")


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_with_a_follower_reads_its_own_group_and_no_other(service: str) -> None:
    groups = [acl for acl in rules(service) if acl.resource == "group"]
    follower = SERVICES[service].follower
    assert groups == ([Acl("group", f"tallyroll.{follower}", "literal", "Read")] if follower else [])


def test_replay_and_publisher_have_no_group() -> None:
    assert not [
        acl
        for service in ("replay", "publisher", "deciding-publisher", "audit-writer")
        for acl in rules(service)
        if acl.resource == "group"
    ]


def test_who_publishes_with_expected_versions_reads_what_it_writes_to() -> None:
    """And nothing else: a publisher without them reads nothing."""
    assert topics("deciding-publisher", "Read") == topics("deciding-publisher", "Write") == topics("publisher", "Write")
    assert not topics("publisher", "Read")


def test_replay_writes_nothing() -> None:
    assert {acl.operation for acl in rules("replay")} == {"Read", "Describe"}


def test_only_operations_care_for_topics_and_they_see_no_record() -> None:
    care = {"Create", "Alter", "Delete", "AlterConfigs", "DescribeConfigs"}
    for service in SERVICES:
        assert not {acl.operation for acl in rules(service)} & care
    assert {acl.operation for acl in rules(OPERATIONS)} == care | {"Describe"}


@pytest.mark.parametrize("service", [*SERVICES, OPERATIONS])
@pytest.mark.parametrize("catalogue", [CATALOGUE, TENANT], ids=["no-prefix", "tenant"])
def test_names_are_literal_except_for_the_operations_of_a_tenant(service: str, catalogue: Catalogue) -> None:
    found = rules(service, catalogue)
    assert found
    assert all("*" not in acl.name and acl.name for acl in found)
    assert {acl.pattern for acl in found} == ({"prefixed"} if service == OPERATIONS and catalogue is TENANT else {"literal"})


@pytest.mark.parametrize("service", [*SERVICES, OPERATIONS])
def test_a_tenants_rights_stay_inside_its_prefix(service: str) -> None:
    assert all(acl.name.startswith("acme.") for acl in rules(service, TENANT))


def test_a_prefix_without_a_separator_is_not_used_as_a_pattern() -> None:
    """It would match the topics of a tenant whose name begins with it."""
    assert {acl.pattern for acl in rules(OPERATIONS, Catalogue(prefix="acme"))} == {"literal"}


def test_an_unknown_service_is_refused() -> None:
    with pytest.raises(ValueError, match="publisher"):
        rules("publsher")


@pytest.mark.parametrize("name", ["", "*", "User:*", "User:", " "])
def test_rights_are_given_to_one_principal(name: str) -> None:
    with pytest.raises(ValueError, match="one principal"):
        principal_of(name)


@pytest.mark.parametrize(("name", "principal"), [("a", "User:a"), ("User:a", "User:a"), ("CN=a:b,O=x", "User:CN=a:b,O=x")])
def test_a_principal_is_named_as_brokers_do(name: str, principal: str) -> None:
    assert principal_of(name) == principal


def test_a_command_keeps_a_principal_with_spaces_and_quotes_in_one_word() -> None:
    (line,) = commands([Acl("topic", "a", "literal", "Read")], "CN=it's me; rm -rf /,O=x")
    words = shlex.split(line)
    assert words[words.index("--allow-principal") + 1] == "User:CN=it's me; rm -rf /,O=x"


def test_there_is_one_command_per_resource() -> None:
    lines = commands(rules("analytics"), "analytics")
    assert len(lines) == len({(acl.resource, acl.name) for acl in rules("analytics")})
    assert sum(line.count("--operation") for line in lines) == len(rules("analytics"))
