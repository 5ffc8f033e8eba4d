"""TFDS, kept from running what is not its own.

A prepared data set names the classes of its features (`features.json`, nested to any depth), and TFDS imports the
module of a class that it does not know. A name with a namespace is looked up on the network. Both are refused here, at
the one place where TFDS imports by name: so nothing depends on which files it reads, or on when they were written.
"""

import contextlib
import threading
from collections.abc import Iterator

from s2sjax.errors import UserError

_OWN = "tensorflow_datasets."
_one_at_a_time = threading.RLock()


@contextlib.contextmanager
def only_own_classes(name: str) -> Iterator[None]:
    """Let TFDS open the builder `name`, with features of TFDS's own classes or of those that this process has imported.

    Raises:
        UserError: the name has a namespace, or the files name another class.
    """
    from tensorflow_datasets.core import naming
    from tensorflow_datasets.core.features.feature import FeatureConnector

    parsed, _ = naming.parse_builder_name_kwargs(name)
    if parsed.namespace:
        raise UserError(
            f"config.data.name is {name!r}: TFDS would look up {parsed.namespace!r} on the network, or run its code; "
            "prepare the data set with TFDS, and name it without the namespace"
        )
    original, find = vars(FeatureConnector)["cls_from_name"], FeatureConnector.cls_from_name

    def find_own(class_name: str) -> type:
        if not str(class_name).startswith(_OWN) and class_name not in FeatureConnector._registered_features:
            raise UserError(
                f"the features of the TFDS data set {name!r} are of the class {class_name!r}, which is not TFDS's own: "
                "to read it would run that module. If you trust it, import it in a script and use s2sjax from Python"
            )
        return find(class_name)

    with _one_at_a_time:
        FeatureConnector.cls_from_name = staticmethod(find_own)  # type: ignore[method-assign, assignment]
        try:
            yield
        finally:
            FeatureConnector.cls_from_name = original
