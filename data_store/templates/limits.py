"""Which hits may become templates (AF2 supplement 1.2.3 and 1.4): what can be judged without opening the structure, and its date."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import FoldlineError
from .hit import TemplateHit


@dataclass(frozen=True)
class TemplateLimits:
    """Limits with AF2's values. Dates are ISO dates; '' sets no limit.

    A template's release date may not be behind ``max_release_date`` nor, for a training chain, behind ``query_release_date``; where one of
    them is set, an entry without a date is refused. ``query_pdb_id`` is the entry that the query comes from: never its own template.
    """

    max_release_date: str = ""
    query_release_date: str = ""
    query_pdb_id: str = ""
    max_hits: int = 20
    min_align_ratio: float = 0.1  # aligned columns per query residue must exceed it
    max_subsequence_ratio: float = 0.95  # a longer exact piece of the query is the query again
    min_length: int = 10  # residues of the hit

    def __post_init__(self) -> None:
        for name in ("max_release_date", "query_release_date"):
            date = getattr(self, name)
            if date and not (len(date) == 10 and date[4] == date[7] == "-" and date.replace("-", "").isdigit()):
                raise FoldlineError(f"{name} is '{date}'; give an ISO date such as 2021-09-30, or '' for no limit")
        if self.max_hits < 0:
            raise FoldlineError(f"max_hits is {self.max_hits}; give 0 or more templates")

    @property
    def last_date(self) -> str:
        """The earlier of the two dates, '' without any."""
        return min(filter(None, (self.max_release_date, self.query_release_date)), default="")

    def refusal(self, hit: TemplateHit, query: str) -> str:
        """Why ``hit`` may not be a template of ``query``, '' when it may."""
        letters, n_res = hit.letters, len(query)
        if not hit.pdb_id:
            return "its name is no PDB entry"
        if self.query_pdb_id and hit.pdb_id == self.query_pdb_id.lower():
            return "is the query's own entry"
        if hit.aligned_cols <= self.min_align_ratio * n_res:
            return f"aligns {hit.aligned_cols} of {n_res} residues, more than {self.min_align_ratio:.0%} are needed"
        if letters in query and len(letters) > self.max_subsequence_ratio * n_res:
            return f"is an exact piece of the query with {len(letters)} of {n_res} residues"
        if len(letters) < self.min_length:
            return f"has {len(letters)} residues, {self.min_length} are needed"
        return ""

    def refusal_by_date(self, release_date: str) -> str:
        """Why an entry released on ``release_date`` ('' = not known) may not be a template, '' when it may."""
        if not self.last_date or "" < release_date <= self.last_date:
            return ""
        return (
            f"was released {release_date}, after {self.last_date}"
            if release_date
            else f"has no release date; it must be by {self.last_date}"
        )
