"""The files of a hub folder, and its version. `docs/formats.md` says what each holds."""

CONFIG_FILE = "config.json"  # written last: a folder that has it is complete
WEIGHTS_FILE = "model.safetensors"
CARD_FILE = "README.md"
FORMAT, FORMAT_VERSION = "matl_scale hub folder", 1
UNITS_PREFIX = "graph.units."  # of tensors that belong to the graph, not to the network's state
