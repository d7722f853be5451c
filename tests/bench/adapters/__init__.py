"""All adapters, in the order of the tables."""

from .base import Adapter, Missing, Service
from .circus import Circus
from .daemontools import Daemontools
from .dinit import Dinit
from .floor import Floor
from .horust import Horust
from .monit import Monit
from .nitro import Nitro, NitroMusl
from .openrc import SuperviseDaemon
from .runit import BusyboxRunit, Runit
from .s6 import S6
from .superd import Superd
from .supervisord import Supervisord
from .wrappers import Catatonit, DumbInit, Tini, TiniGroup
from .zinit import Zinit

ALL = [Floor, Nitro, NitroMusl, Dinit, Superd, Runit, BusyboxRunit, S6,
       Daemontools, SuperviseDaemon, Zinit, Horust, Supervisord, Circus, Monit,
       Tini, TiniGroup, DumbInit, Catatonit]

__all__ = ["ALL", "Adapter", "Missing", "Service"]
