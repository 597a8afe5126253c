"""The phrases of core/phrases.py under the name by which this room and the terminal know them."""

from trimtab.core.phrases import MINUS as MINUS
from trimtab.core.phrases import MISSING as MISSING
from trimtab.core.phrases import TIMES as TIMES
from trimtab.core.phrases import count as count
from trimtab.core.phrases import decimals_for as decimals_for
from trimtab.core.phrases import ended as ended
from trimtab.core.phrases import fixed as fixed
from trimtab.core.phrases import interval as interval
from trimtab.core.phrases import is_number as is_number
from trimtab.core.phrases import line as line
from trimtab.core.phrases import megabytes as megabytes
from trimtab.core.phrases import milliseconds as milliseconds
from trimtab.core.phrases import milliseconds_interval as milliseconds_interval
from trimtab.core.phrases import percent as percent
from trimtab.core.phrases import rounded_down as rounded_down
from trimtab.core.phrases import seconds as seconds
from trimtab.core.phrases import significant as significant
from trimtab.core.phrases import times as times
from trimtab.core.phrases import times_interval as times_interval
from trimtab.core.phrases import visible as visible
from trimtab.core.phrases import with_unit as with_unit
