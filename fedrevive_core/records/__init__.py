"""What a run leaves, on disk and in memory. No PyTorch."""

from __future__ import annotations

from fedrevive_core.records.hash_chain import broken_link, first_difference, link, state_sha256
from fedrevive_core.records.maker import BESIDE, OTHER_CODE, changes, code_hash, made_by, software
from fedrevive_core.records.provenance import provenance
from fedrevive_core.records.record import Record
from fedrevive_core.records.safe_load import check_file, read_json
from fedrevive_core.records.statistics import TARGETS, confidence_interval, summarise
from fedrevive_core.records.synthesis_trace import Switches, Trace

__all__ = [
    "BESIDE",
    "OTHER_CODE",
    "TARGETS",
    "Record",
    "Switches",
    "Trace",
    "broken_link",
    "changes",
    "check_file",
    "code_hash",
    "confidence_interval",
    "first_difference",
    "link",
    "made_by",
    "provenance",
    "read_json",
    "software",
    "state_sha256",
    "summarise",
]
