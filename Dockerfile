# The service: docker build -t dinov3seg . && docker run -p 8000:8000 dinov3seg
# With a checkpoint: docker run -p 8000:8000 -v /path/to/checkpoint:/model dinov3seg --model /model
# SIGTERM (docker stop) ends it when all requests in work are answered; give it time: docker stop --time 60.
FROM python:3.11-slim
WORKDIR /app
COPY pyproject.toml setup.py dinov3seg_command.py constraints.txt README.md LICENSE model_card.md ./
COPY dinov3seg_hf dinov3seg_hf
COPY demo demo
COPY examples examples
COPY recipes recipes
RUN pip install --no-cache-dir -c constraints.txt ".[serve]" && useradd --create-home --uid 1000 serve
USER 1000
EXPOSE 8000
HEALTHCHECK --start-period=60s CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://localhost:8000/health')"]
ENTRYPOINT ["dinov3seg", "serve", "--host", "0.0.0.0"]
