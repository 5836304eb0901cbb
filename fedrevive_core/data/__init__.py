"""Data of a federation: loading, partition among clients, texts. A loader imports its library when it is used."""

from __future__ import annotations

from fedrevive_core.data.cache import data_directory
from fedrevive_core.data.federated import FederatedData, federate, load_federated, match_to_speed
from fedrevive_core.data.images import load_images, other_images
from fedrevive_core.data.samples import ImageData, Images, Texts
from fedrevive_core.data.tokenizers import Tokenizer, encoder_path

__all__ = [
    "FederatedData",
    "ImageData",
    "Images",
    "Texts",
    "Tokenizer",
    "data_directory",
    "encoder_path",
    "federate",
    "load_federated",
    "load_images",
    "match_to_speed",
    "other_images",
]
