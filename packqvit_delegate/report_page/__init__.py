"""The report of a program as one HTML page that needs no network: `program.report.save("report.html")`."""

from .judgement import Judgement
from .page import check_page
from .timing import Timing

__all__ = ["Judgement", "Timing", "check_page"]
