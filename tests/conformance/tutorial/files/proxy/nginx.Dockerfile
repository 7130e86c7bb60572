FROM nginx
RUN mkdir -p /usr/share/nginx/html/cgi-bin
COPY proxy.cgi /usr/share/nginx/html/cgi-bin/proxy
RUN chmod 755 /usr/share/nginx/html/cgi-bin/proxy
