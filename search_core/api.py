"""The public names of this package."""

from search_core.cost.counts import NetworkCost, child_cost, primitive_cost, supernet_cost
from search_core.cost.penalty_options import CostMix, PenaltyOptions, penalty_strength_at
from search_core.data.dataset_options import DatasetOptions
from search_core.data.datasets import ImageData, load_data
from search_core.errors import DataError, GenotypeError, NonFiniteLossError, OptionsError, StateError
from search_core.network.child import Child, inherit_child
from search_core.network.supernet import Supernet
from search_core.primitives.counting import Cost
from search_core.recurrent.options import RecurrentRetrainOptions, RecurrentSearchOptions, TextOptions
from search_core.recurrent.retrain import RecurrentRetrain
from search_core.recurrent.search import RecurrentSearch
from search_core.recurrent.text import load_text
from search_core.search.options import SearchOptions
from search_core.search.reports import EpochReport
from search_core.search.search import Search
from search_core.search.temperature import TemperatureOptions, temperature_at
from search_core.space.cell_files import load_genotype
from search_core.space.genotype import PRIMITIVES, PUBLISHED, Edge, Genotype
from search_core.space.plan import NetworkOptions, NetworkSize
from search_core.space.recurrent import PUBLISHED_RECURRENT, RecurrentGenotype, load_recurrent_genotype
from search_core.strategies.optimiser_options import AlphaOptions, ThetaOptions
from search_core.strategies.weight_sharing.options import SnasOptions
from search_core.training.retrain import Retrain, RetrainReport
from search_core.training.retrain_options import RetrainOptions

__all__ = [
    "PRIMITIVES",
    "PUBLISHED",
    "PUBLISHED_RECURRENT",
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
    "NetworkSize",
    "NonFiniteLossError",
    "OptionsError",
    "PenaltyOptions",
    "RecurrentGenotype",
    "RecurrentRetrain",
    "RecurrentRetrainOptions",
    "RecurrentSearch",
    "RecurrentSearchOptions",
    "Retrain",
    "RetrainOptions",
    "RetrainReport",
    "Search",
    "SearchOptions",
    "SnasOptions",
    "StateError",
    "Supernet",
    "TemperatureOptions",
    "TextOptions",
    "ThetaOptions",
    "child_cost",
    "inherit_child",
    "load_data",
    "load_genotype",
    "load_recurrent_genotype",
    "load_text",
    "penalty_strength_at",
    "primitive_cost",
    "supernet_cost",
    "temperature_at",
]
