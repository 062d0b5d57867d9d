"""Strip wikitext to the prose that a reader sees, in one pass over its bytes.

Templates, tables, references, comments, files, categories, formulas and galleries are removed.  Links keep the text
that a reader sees; headings and list items become lines of text.  Nothing is expanded.  Syntax:
https://www.mediawiki.org/wiki/Help:Formatting and the pages that it names.

Text is written as it is read.  An opening mark records the length of the text so far, and the closing mark of something
unwanted cuts the text back to that length.  So an element that is never closed costs its mark only, not the rest of the
article.

    read.py      what begins at a position: a tag, an entity, the prefix of a link, an address
    elements.py  the elements that are open, the text that is written between them, lines
    marks.py     one mark each, and whole texts

Legend:
    data (N,) uint8       all wikitexts; `at` is the position read, `end` the end of the present text
    out (M,) uint8        the prose of all texts; `n` is its length so far, `base` its length before the present text,
                          `floor` the length that may not be undercut because something open has recorded it
    open_D (D, 3) int64   the elements that are open, outermost first: columns KIND, START, HAS_PIPE
    state (8,) int64      what else the text is in the middle of: DEPTH (number of open elements) and so on
"""

from worldclip.metadata.sources.wikitext.marks import strip as strip
from worldclip.metadata.sources.wikitext.read import prefix_hashes as prefix_hashes
