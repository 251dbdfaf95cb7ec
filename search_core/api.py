"""The public names of this package."""

from search_core.cell import NetworkOptions
from search_core.child import Child, inherit_child
from search_core.cost import Cost, NetworkCost, child_cost, primitive_cost, supernet_cost
from search_core.data import ImageData, load_data
from search_core.dataset_options import DatasetOptions
from search_core.errors import DataError, GenotypeError, NonFiniteLossError, OptionsError, StateError
from search_core.genotype import PRIMITIVES, PUBLISHED, Edge, Genotype, load_genotype
from search_core.reports import EpochReport
from search_core.retrain import Retrain, RetrainReport
from search_core.retrain_options import RetrainOptions
from search_core.schedules import CostMix, PenaltyOptions, TemperatureOptions, penalty_strength_at, temperature_at
from search_core.search import Search
from search_core.search_options import SearchOptions
from search_core.strategies.optimiser_options import AlphaOptions, ThetaOptions
from search_core.strategies.weight_sharing_options import SnasOptions
from search_core.supernet import Supernet

__all__ = [
    "PRIMITIVES",
    "PUBLISHED",
    "AlphaOptions",
    "Child",
    "Cost",
    "CostMix",
    "DataError",
    "DatasetOptions",
    "Edge",
    "EpochReport",
    "Genotype",
    "GenotypeError",
    "ImageData",
    "NetworkCost",
    "NetworkOptions",
    "NonFiniteLossError",
    "OptionsError",
    "PenaltyOptions",
    "Retrain",
    "RetrainOptions",
    "RetrainReport",
    "Search",
    "SearchOptions",
    "SnasOptions",
    "StateError",
    "Supernet",
    "TemperatureOptions",
    "ThetaOptions",
    "child_cost",
    "inherit_child",
    "load_data",
    "load_genotype",
    "penalty_strength_at",
    "primitive_cost",
    "supernet_cost",
    "temperature_at",
]
