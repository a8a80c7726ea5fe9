import java.io.InputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.net.http.WebSocket;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyStore;
import java.security.MessageDigest;
import java.security.SecureRandom;
import java.security.cert.CertificateFactory;
import java.util.Arrays;
import java.util.HexFormat;
import java.util.List;
import java.util.Random;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.TimeUnit;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLParameters;
import javax.net.ssl.SSLSession;
import javax.net.ssl.SSLSocket;
import javax.net.ssl.TrustManagerFactory;

/**
 * https and wss by the JDK. Arguments: file of the CA, host:port, bytes to send, then pairs VERSION:SUITE. Prints a line
 * for each pair, and one for each version about resumption.
 */
public final class TlsClient {
    private static final Random RANDOM = new Random(1);

    public static void main(String[] arguments) throws Exception {
        Path ca = Path.of(arguments[0]);
        String address = arguments[1];
        int size = Integer.parseInt(arguments[2]);
        for (String pair : Arrays.copyOfRange(arguments, 3, arguments.length)) {
            String[] parts = pair.split(":");
            SSLContext context = trusting(ca);
            SSLParameters parameters = context.getDefaultSSLParameters();
            parameters.setProtocols(new String[] {parts[0]});
            parameters.setCipherSuites(new String[] {parts[1]});
            HttpClient client = HttpClient.newBuilder()
                    .sslContext(context).sslParameters(parameters).version(HttpClient.Version.HTTP_1_1).build();
            SSLSession session = upload(client, address, size);
            websocket(client, address, size);
            System.out.println(session.getProtocol() + " " + session.getCipherSuite() + " works");
        }
        for (String version : new String[] {"TLSv1.2", "TLSv1.3"}) {
            System.out.println(version + " " + (resumes(trusting(ca), address, version) ? "resumed" : "not resumed"));
        }
    }

    private static SSLContext trusting(Path ca) throws Exception {
        KeyStore store = KeyStore.getInstance(KeyStore.getDefaultType());
        store.load(null);
        try (InputStream in = Files.newInputStream(ca)) {
            store.setCertificateEntry("ca", CertificateFactory.getInstance("X.509").generateCertificate(in));
        }
        TrustManagerFactory factory = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        factory.init(store);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(null, factory.getTrustManagers(), new SecureRandom());
        return context;
    }

    private static SSLSession upload(HttpClient client, String address, int size) throws Exception {
        byte[] body = new byte[size];
        RANDOM.nextBytes(body);
        String digest = HexFormat.of().formatHex(MessageDigest.getInstance("SHA-256").digest(body));
        HttpRequest request = HttpRequest.newBuilder(URI.create("https://" + address + "/a/upload"))
                .POST(HttpRequest.BodyPublishers.ofByteArray(body)).build();
        HttpResponse<String> answer = client.send(request, HttpResponse.BodyHandlers.ofString());
        check(answer.statusCode() == 200 && answer.body().contains(digest), answer.body());
        HttpRequest download = HttpRequest.newBuilder(
                URI.create("https://" + address + "/a/download?size=" + size)).build();
        byte[] data = client.send(download, HttpResponse.BodyHandlers.ofByteArray()).body();
        check(data.length == size, data.length + " bytes");
        for (int at = 0; at < size; at++) {
            check(data[at] == (byte) at, "byte " + at);
        }
        return answer.sslSession().orElseThrow();
    }

    private static void websocket(HttpClient client, String address, int size) throws Exception {
        byte[] sent = new byte[size];
        RANDOM.nextBytes(sent);
        ByteBuffer received = ByteBuffer.allocate(size);
        CompletableFuture<Integer> closed = new CompletableFuture<>();
        WebSocket.Listener listener = new WebSocket.Listener() {
            @Override
            public CompletionStage<?> onBinary(WebSocket socket, ByteBuffer data, boolean last) {
                received.put(data);
                if (last) {
                    socket.sendClose(4000, "done");
                }
                socket.request(1);
                return null;
            }

            @Override
            public CompletionStage<?> onClose(WebSocket socket, int code, String reason) {
                closed.complete(code);
                return null;
            }

            @Override
            public void onError(WebSocket socket, Throwable error) {
                closed.completeExceptionally(error);
            }
        };
        WebSocket socket = client.newWebSocketBuilder()
                .buildAsync(URI.create("wss://" + address + "/ws"), listener).get(20, TimeUnit.SECONDS);
        socket.sendBinary(ByteBuffer.wrap(sent), true).get(20, TimeUnit.SECONDS);
        check(closed.get(20, TimeUnit.SECONDS) == 4000, "the code of the Close frame");
        check(Arrays.equals(sent, received.array()), "the echo");
    }

    private static boolean resumes(SSLContext context, String address, String version) throws Exception {
        String[] parts = address.split(":");
        List<SSLSession> sessions = new java.util.ArrayList<>();
        for (int count = 0; count < 2; count++) {
            try (SSLSocket socket = (SSLSocket)
                    context.getSocketFactory().createSocket(parts[0], Integer.parseInt(parts[1]))) {
                socket.setEnabledProtocols(new String[] {version});
                socket.getOutputStream().write(
                        ("GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").getBytes());
                String answer = new String(socket.getInputStream().readAllBytes());
                check(answer.startsWith("HTTP/1.1 200"), answer);
                sessions.add(socket.getSession());
            }
            Thread.sleep(2);  // sessions that are not the same were not made in the same millisecond
        }
        return sessions.get(0).getCreationTime() == sessions.get(1).getCreationTime();
    }

    private static void check(boolean fine, String what) {
        if (!fine) {
            throw new AssertionError(what);
        }
    }
}
