"""What a run leaves, on disk and in memory. No PyTorch."""

from __future__ import annotations

from fedrevive_core.records.difference import first_difference
from fedrevive_core.records.hash_chain import broken_link, link, state_sha256, table_sha256
from fedrevive_core.records.header import Altered, Provenance, read_header
from fedrevive_core.records.maker import BESIDE, OTHER_CODE, changes, code_hash, made_by, software
from fedrevive_core.records.participation import class_table, gini, intake, lorenz, slow_classes, update_counts
from fedrevive_core.records.provenance import installed, provenance, requirements
from fedrevive_core.records.record import Record, load_tables
from fedrevive_core.records.safe_load import check_file, read_json, read_table
from fedrevive_core.records.statistics import TARGETS, confidence_interval, summarise, summarise_arrivals
from fedrevive_core.records.synthesis_trace import Switches, Trace

__all__ = [
    "BESIDE",
    "OTHER_CODE",
    "TARGETS",
    "Altered",
    "Provenance",
    "Record",
    "Switches",
    "Trace",
    "broken_link",
    "changes",
    "check_file",
    "class_table",
    "code_hash",
    "confidence_interval",
    "first_difference",
    "gini",
    "installed",
    "intake",
    "link",
    "load_tables",
    "lorenz",
    "made_by",
    "provenance",
    "read_header",
    "read_json",
    "read_table",
    "requirements",
    "slow_classes",
    "software",
    "state_sha256",
    "summarise",
    "summarise_arrivals",
    "table_sha256",
    "update_counts",
]
