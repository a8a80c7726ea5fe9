"""The optional extension modules; everything else about the build is in pyproject.toml.

The relay's hot path is compiled by Cython where a C compiler is at hand. Without one, or with GATEWAY_BUILD=pure, the
same sources run uncompiled, and the install says so.
"""

import os
import sys

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

MODULES = (
    "gateway/edge/tls/callback.pyx",
    "gateway/edge/splicing.py",
    "gateway/observe/batch.py",
    "gateway/observe/ends.py",
    "gateway/observe/forms.py",
    "gateway/observe/handshakes.py",
    "gateway/observe/line.pyx",
    "gateway/protocol/bodies.py",
    "gateway/protocol/headers.py",
    "gateway/protocol/known_heads.py",
    "gateway/protocol/pings.py",
    "gateway/protocol/scanner.py",
    "gateway/protocol/tls/protection.pyx",
    "gateway/protocol/tls/records.py",
    "gateway/protocol/tls/traffic.pyx",
    "gateway/tunnels/relay/deadlines.py",
    "gateway/tunnels/relay/ending.py",
    "gateway/tunnels/relay/failing.py",
    "gateway/tunnels/relay/kernel.pyx",
    "gateway/tunnels/relay/limiting.py",
    "gateway/tunnels/relay/metering.py",
    "gateway/tunnels/relay/pinging.py",
    "gateway/tunnels/relay/reading.py",
    "gateway/tunnels/relay/relay.py",
    "gateway/tunnels/relay/sealed.py",
    "gateway/tunnels/relay/streams.py",
    "gateway/tunnels/table/slice.py",
    "gateway/tunnels/table/texts.py",
    "gateway/tunnels/upkeep/attribution.py",
    "gateway/tunnels/upkeep/sweep.py",
)


class OptionalBuild(build_ext):
    """Builds all of the extension modules, or none: half of them compiled would be neither build."""

    def run(self) -> None:
        try:
            super().run()
        except Exception as error:  # distutils raises a dozen unrelated types when a compiler is missing
            self._run_uncompiled(error)

    def build_extensions(self) -> None:
        try:
            super().build_extensions()
        except Exception as error:
            self._run_uncompiled(error)

    def _run_uncompiled(self, error: Exception) -> None:
        for extension in self.extensions:
            for built in (self.get_ext_fullpath(extension.name), *self._get_output_mapping_safe(extension)):
                if os.path.exists(built):
                    os.unlink(built)
        self.extensions = []
        print(f"upgrade-gateway: no working C compiler ({error}); the relay runs uncompiled", file=sys.stderr)

    def _get_output_mapping_safe(self, extension: Extension) -> tuple[str, ...]:
        return (os.path.join(self.build_lib, self.get_ext_filename(extension.name)),)


def extensions() -> list[Extension]:
    if os.environ.get("GATEWAY_BUILD") == "pure":
        return []
    from Cython.Build import cythonize

    modules = [
        Extension(
            os.path.splitext(path)[0].replace("/", "."),
            [path],
            extra_compile_args=["-O2", "-fwrapv"],
        )
        for path in MODULES
    ]
    return cythonize(
        modules,
        compiler_directives={
            "language_level": 3,
            "boundscheck": False,
            "wraparound": False,
            "initializedcheck": False,
            "cdivision": True,
            "annotation_typing": False,
        },
    )


setup(ext_modules=extensions(), cmdclass={"build_ext": OptionalBuild})
