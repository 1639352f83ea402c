# Container image for docker, Apptainer and SLURM.
#
#   docker build -t regnet .
#
# The program is in /opt/regnet and the Python environment in /opt/venv; both are owned by root and never written to.
# Runs write to the working directory, as any user. There is no entry point, because Apptainer's exec and SLURM's
# container support would ignore it.
#
# Any Debian 12 image can be the base. CUDA is installed with torch from PyPI; the driver comes from the host.
ARG BASE_IMAGE=debian:12-slim

FROM ${BASE_IMAGE} AS base
# Not pinned: Debian keeps only one version of a package per release, and security fixes replace it.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends libturbojpeg0 make python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*


# torch and its shared dependencies have their own layer, so that other changes of requirements.txt do not download
# gigabytes again.
FROM base AS pins
WORKDIR /pins
COPY requirements.txt .
RUN grep -E '^(torch|torchvision|numpy|pillow|setuptools)==' requirements.txt > torch.txt


FROM base AS environment
RUN python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
WORKDIR /opt/regnet
COPY --from=pins /pins/torch.txt /tmp/
RUN pip install --no-cache-dir --disable-pip-version-check -r /tmp/torch.txt
COPY requirements.txt .
RUN pip install --no-cache-dir --disable-pip-version-check -r requirements.txt


# Build stage: the compiler and the headers do not become part of the final image.
FROM environment AS ffcv
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ libturbojpeg0-dev python3-dev \
    && rm -rf /var/lib/apt/lists/*
COPY requirements-ffcv.txt .
COPY tools tools
RUN ln -s /opt/venv .venv \
    && tools/install.sh \
    && mkdir /built \
    && cp -r --parents /opt/venv/lib/python3*/site-packages/*ffcv* /built


FROM environment
COPY --from=ffcv /built /
COPY . .
# Makes the program readable for every user, whatever the permissions of the checkout, importable from any directory,
# and the result directories in /opt/regnet writable. The home directory serves unknown users (docker run --user).
RUN chmod -R a+rX . \
    && python -c "import pathlib, sysconfig; pathlib.Path(sysconfig.get_path('purelib'), 'regnet.pth').write_text('/opt/regnet\n')" \
    && useradd --uid 1000 --create-home regnet \
    && mkdir downloads runs shards \
    && chmod 1777 /home/regnet downloads runs shards
ENV HOME=/home/regnet \
    REGNET_VENV=/opt/venv \
    PYTHONUNBUFFERED=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="regnet-ddp" \
      org.opencontainers.image.description="Distributed training of RegNetX image classifiers over FFCV shards" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
USER 1000:1000
CMD ["make", "demo"]
