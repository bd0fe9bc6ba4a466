"""joblib's `Parallel` on hosts: importing this module registers the backend ``fabremote``.

::

    import fabremote.joblib

    with RemoteExecutor(group) as executor:
        with joblib.parallel_config("fabremote", executor=executor):
            joblib.Parallel()(joblib.delayed(fn)(item) for item in items)

Needs joblib here, the extra of that name, and nothing on the hosts.
"""

from __future__ import annotations

import concurrent.futures
import weakref
from collections.abc import Callable
from typing import Any

from joblib.parallel import AutoBatchingMixin, ParallelBackendBase, register_parallel_backend

from fabremote.executor import Batch, RemoteExecutor

Future = concurrent.futures.Future[Any]


class FabremoteBackend(AutoBatchingMixin, ParallelBackendBase):
    """Runs the batches of a ``Parallel`` call through a `RemoteExecutor`.

    ``executor``: which; it stays the caller's, to be shut down. ``n_jobs=-1``,
    the default, uses every host.
    """

    default_n_jobs = -1
    supports_retrieve_callback = True

    def __init__(self, executor: RemoteExecutor | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not isinstance(executor, RemoteExecutor):
            raise TypeError(
                f"The backend 'fabremote' needs an executor, not {executor!r:.100}: "
                "parallel_config('fabremote', executor=RemoteExecutor(group))."
            )
        self._executor = executor
        self._futures: weakref.WeakSet[Future] = weakref.WeakSet()

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return how many jobs run at once of the ``n_jobs`` asked for."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        places = self._executor._max_workers
        if n_jobs is None:
            return 1
        return max(1, places + 1 + n_jobs) if n_jobs < 0 else n_jobs

    def submit(self, func: Any, callback: Callable[[Future], Any] | None = None) -> Future:
        """Queue a batch of calls; return its Future."""
        future = self._executor.submit(Batch(func.items[0][0]), func.items)
        self._futures.add(future)
        if callback is not None:
            future.add_done_callback(callback)
        return future

    # Its name before joblib 1.5.
    apply_async = submit

    def retrieve_result_callback(self, out: Future) -> Any:
        """Return a batch's values, or raise what it raised."""
        return out.result()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Cancel what waits and kill what runs of this backend's."""
        for future in list(self._futures):
            future.cancel()


register_parallel_backend("fabremote", FabremoteBackend)

__all__ = ["FabremoteBackend"]
