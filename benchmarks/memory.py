"""Peak memory of pruning with a transcoder on disk, beside what it has to hold.

    python -m benchmarks.memory --json benchmarks/results/memory.json

Makes a random model and transcoder of the given sizes (the decoders are sparse files of zeros
beside a few random rows where asked), prunes a few pairs in a fresh process, and compares its
peak resident memory with: a process that has only imported and compiled, plus encoders, batch
and the decoder rows that the batch needs.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
