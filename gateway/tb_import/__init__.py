"""Configuration files of the ThingsBoard IoT Gateway become `buses`, and what cannot be carried over is told.

    files ─▶ modbus │ serial ─▶ trees and Notes ─▶ text

Pure but for `files`, which reads. What a bus may say belongs to its driver; the trees are held against it afterwards.
"""

from gateway.tb_import.files import load
from gateway.tb_import.notes import Imported, Note
from gateway.tb_import.text import to_yaml

__all__ = ["Imported", "Note", "load", "to_yaml"]
