"""A notebook's cells run in this process, where papermill would take ten seconds to start a kernel."""

import matplotlib.pyplot as plt
import nbformat
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from kvhelpers.notebook import MARK
from kvhelpers.paths import notebook_path


class Shell(InteractiveShell):
    """One that draws into no window."""

    def enable_gui(self, gui=None):
        pass


def error_with(name, parameters, last=None):
    """The first error of a notebook whose parameters are changed as papermill would inject them; None if it
    runs to its end, or to its code cell number ``last``.
    """
    shell = Shell(config=Config({"HistoryManager": {"enabled": False}}))
    backend = plt.get_backend()
    try:
        cells = nbformat.read(notebook_path(name), as_version=4).cells
        for cell in [cell for cell in cells if cell.cell_type == "code"][:last]:
            sources = [cell.source]
            if "parameters" in cell.metadata.get("tags", []):
                assigned = "\n".join(f"{key} = {value!r}" for key, value in parameters.items())
                sources.append(f"{MARK}\n{assigned}")
            for source in sources:
                error = shell.run_cell(source, store_history=True).error_in_exec
                if error is not None:
                    return error
        return None
    finally:
        plt.switch_backend(backend)  # %matplotlib inline changes it
