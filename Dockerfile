# A machine with this project on it, in the versions of constraints.txt. With a GPU: docker run --gpus all ...
#   docker build -t lifelong .
#   docker run --rm -v "$PWD/runs:/work/runs" lifelong run quickstart
FROM python:3.11-slim

# Cached references and decoded data go to the mounted folder, so that they outlive the container.
ENV LIFELONG_CACHE=/work/runs/.cache PYTHONUNBUFFERED=1
WORKDIR /work
COPY . /opt/lifelong
RUN pip install --no-cache-dir -c /opt/lifelong/constraints.txt "/opt/lifelong[lora,datasets,ray]"
ENTRYPOINT ["lifelong"]
CMD ["--help"]
